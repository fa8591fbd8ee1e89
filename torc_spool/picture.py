"""A workflow's directory as plain values: what a survey has seen of it, for the check."""

from __future__ import annotations

from typing import NamedTuple

from torc_spool.model import Action, Job, Needs, Status
from torc_spool.naming import ActionName, JobName, Request


class JobFile(NamedTuple):
    """A file that bears the name of one of the workflow's jobs, in a directory where jobs lie."""

    directory: str  # below the workflow's, like all paths of a picture
    filename: str
    status: Status
    name: JobName
    job: Job | None  # None: it cannot be understood
    why: str | None = None

    @property
    def path(self) -> str:
        return f"{self.directory}/{self.filename}"


class Odd(NamedTuple):
    """What lies where it may not, or is not as it must be, and why."""

    path: str
    why: str


class Event(NamedTuple):
    """A line of a journal that is about a job."""

    event: str
    job: int
    attempt: int
    outcome: str | None


class Runner(NamedTuple):
    """What the records say of a runner."""

    path: str
    ended: str | None  # the state in end.json
    is_said: bool  # whether there is a runner.json, or a taker's directory for it
    files: frozenset[str]  # of those that it has to have, which are there
    journal: tuple[Event, ...] = ()

    @property
    def taker(self) -> str | None:
        """In whose directory the record lies."""
        *_, holder, _, _ = ("", "", *self.path.split("/"))
        return holder or None


class OwnerDirectory(NamedTuple):
    """A directory below pending/ or running/."""

    path: str
    holder: str
    owner: str


class ActionFile(NamedTuple):
    """An action's file; one that cannot be understood, or has no such name, is not here but odd."""

    where: str
    filename: str
    name: ActionName

    @property
    def path(self) -> str:
        return f"actions/{self.where}/{self.filename}"


class Known(NamedTuple):
    """What the workflow's own immutable records say."""

    num_jobs: int
    num_edges: int
    num_actions: int
    sort_method: str | None
    revision: int  # the latest
    jobs: dict[int, Job]  # as they are defined now; none where that record is broken
    needs: dict[int, set[Needs]]  # that a job has, or had in an earlier definition
    actions: dict[int, Action]
    records: dict[str, set[str]]  # by directory ("" or that of a revision), the names of the records in it
    broken: list[Odd]  # records that are not as they were written
    restored: dict[str, bytes]  # what those of these held of which that can be told


class Picture(NamedTuple):
    """Everything that is checked."""

    known: Known
    missing: list[str]  # directories, and the lock
    astray: list[Odd]  # what no repair of this workflow can mend
    foreign: list[Odd]
    temporaries: list[str]
    files: list[JobFile]
    seen: set[int]  # the jobs of which a name was listed, also where the file had moved on when it was read
    owners: list[OwnerDirectory]
    runners: dict[str, Runner]
    revisions: set[int]  # of which journals tell
    aside: set[int]  # jobs that are set aside
    kept: dict[int, int]  # the highest attempt of each job of which aside/, lost+found/ or a journal tells
    requests: list[tuple[str, Request]]
    actions: list[ActionFile]
    actions_aside: set[int]
    actions_kept: dict[int, int]  # the highest performance of each action, as `kept`
    user_data: list[Odd]  # values that are gone or no JSON
