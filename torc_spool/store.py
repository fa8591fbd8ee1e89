"""One workflow's directory: listings, contents, and moves that the table allows.

Answers can be stale on return: other processes move files at any time. What a caller decides on an answer, it
decides by a rename that succeeds or fails.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import msgspec

from torc_spool import contents, fsops, lifecycle, naming, sortkeys, trust
from torc_spool.contents import Content
from torc_spool.errors import BadName, DamagedFile, FromTheFuture, NotFound, StorageError
from torc_spool.graph import Ended, Ledger, Link
from torc_spool.layout import ACTION_DIRECTORIES, FIXED_DIRECTORIES, IDS, Layout
from torc_spool.lifecycle import Move
from torc_spool.model import OUTCOMES, Action, Job, Needs, RunnerEnd, RunnerRecord, Status, Workflow
from torc_spool.naming import Cause, JobName
from torc_spool.revision import Revisions, latest_of
from torc_spool.select import Entry

_MAX_JOB_BYTES = 64 << 20  # what is larger is no job's file, and shall not fill the memory
_SNAPSHOT_TRIES = 5

T = TypeVar("T")

Instead = Callable[[Layout, DamagedFile], fsops.Content]
"""Asked for what a damaged `workflow.json` held, which the layout names; raises DamagedFile where nobody knows."""


class Place(NamedTuple):
    """Where a job's file was seen."""

    status: Status
    detail: str | None  # the scheduler's directory or the owner, where there is one
    filename: str
    name: JobName


class Outcomes(NamedTuple):
    """A listing of `done/`."""

    ended: dict[int, Ended]
    causes: dict[int, str]  # file names of the jobs that were canceled because of another
    foreign: list[tuple[str, str]]


class _LinkRecord(msgspec.Struct, frozen=True):
    id: int
    depends_on: tuple[int, ...] = ()
    cancel_on_blocking_job_failure: bool = True
    scheduler: str | None = None


def _read_workflow(layout: Layout, what: str, instead: Instead | None) -> tuple[Workflow, int]:
    """What `workflow.json` says, and whose it is."""
    path = layout.workflow_file
    try:
        content = fsops.read(path)
        if content is None:
            if fsops.entries(layout.root) is None:
                raise NotFound(f"{layout.root} was deleted")
            raise DamagedFile(path, f"is missing: this is not a {what}")
        return contents.decode_workflow(content.data, path, layout.workflow_id), content.owner
    except DamagedFile as damage:
        if instead is None or isinstance(damage, FromTheFuture):
            raise
        content = instead(layout, damage)
        return contents.decode_workflow(content.data, path, layout.workflow_id), content.owner


class Store:
    """An open workflow. Make one with `open`."""

    def __init__(self, layout: Layout, workflow: Workflow, *, shared: bool, revision: int = 0) -> None:
        self.revisions = Revisions(layout, revision)
        self.layout, self.workflow, self.shared = layout, workflow, shared
        self.directory_mode = 0o777 if shared else 0o755
        self.file_mode = 0o666 if shared else 0o644
        self._only_of: int | None = None  # whose files are believed; None: everybody's, for who only looks

    @classmethod
    def open(cls, root: str, *, allow_shared: bool = False, instead: Instead | None = None) -> Store:
        """Read `workflow.json`; `instead` is asked of a damaged one. Raises NotFound, DamagedFile, StorageError."""
        layout = Layout(root)
        workflow, owner = _read_workflow(layout, "workflow, or not a whole one", instead)
        said_by_owner = workflow.shared and owner == os.geteuid()
        revision = latest_of(root)
        if revision:
            layout.revise(revision)
            workflow, _ = _read_workflow(layout, "whole revision", instead)
        return cls(layout, workflow, shared=allow_shared or said_by_owner, revision=revision)

    def check_trust(self) -> None:
        """Refuse a workflow that somebody else could have written to. Raises UntrustedSpool.

        Call it before anything that runs commands or moves jobs.
        """
        root = self.layout.root
        parts = (*FIXED_DIRECTORIES, *(ACTION_DIRECTORIES if self.workflow.num_actions else ()))
        for path in (os.path.dirname(root), root):
            trust.check_directory(path, shared=self.shared)
        paths = [f"{root}/{part}" for part in parts]
        paths += [f"{self.layout.ready}/{name}" for name in self.ready_directories() if name != naming.ANY_SCHEDULER]
        if self.revisions.number:
            paths.append(self.layout.revision(self.revisions.number))
        for path in paths:
            self._check_part(path)
        self._only_of = None if self.shared else os.geteuid()

    def _check_part(self, path: str) -> None:
        mend = f"`fsck {self.workflow.id} --repair` mends that"
        try:
            trust.check_directory(path, shared=self.shared, instead=mend)
        except StorageError as error:
            if error.errno in fsops.GONE and fsops.entries(self.layout.root) is not None:
                raise DamagedFile(path, f"is not there; {mend}") from error
            raise

    def scheduler(self, named: str | None) -> dict[str, Any]:
        """A scheduler of the workflow, by its name or its number from 1; None: the only one. Raises NotFound."""
        schedulers = self.workflow.schedulers
        known = [entry["name"] for entry in schedulers]
        if named is None and len(known) == 1:
            return schedulers[0]
        if named in known:
            return schedulers[known.index(named)]
        number = None if named is None else naming.whole(named)
        if number is not None and 1 <= number <= len(known):
            return schedulers[number - 1]
        has = ", ".join(f"{number} {name}" for number, name in enumerate(known, 1)) or "none"
        if named is None:
            raise NotFound(f"name a scheduler of workflow {self.workflow.id} with --scheduler; it has: {has}")
        raise NotFound(f"workflow {self.workflow.id} has no scheduler {named!r}; it has: {has}")

    # -- listings -------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Whether the workflow has not been deleted. Raises StorageError where that cannot be told now."""
        if fsops.entries(self.layout.ready) is not None:
            return True
        if self.lacks(self.layout.ready):
            return False
        raise StorageError("list", self.layout.ready, errno.ESTALE)

    def lacks(self, path: str) -> bool:
        """Whether a directory of this workflow is surely not there, by a fresh listing of what it lies in, or of what
        that lies in. Where the whole spool is away (not mounted, its server not yet back) nothing is sure."""
        while True:
            parent, name = os.path.split(path)
            found = fsops.entries(parent)
            if found is not None:
                # an empty mount point is no spool
                return name not in found and (path != self.layout.root or IDS in found)
            if path == self.layout.root:
                return False
            path = parent

    def is_outdated(self) -> bool:
        """Whether there is a later revision of the jobs than the one that was opened."""
        return latest_of(self.layout.root) > self.revisions.number

    def ready_directories(self) -> list[str]:
        return fsops.directories_and_files(self.layout.ready)[0]

    def strays(self) -> list[tuple[str, str]]:
        """(directory, name) of what lies where only directories or only blocked jobs may, and is none."""
        layout = self.layout
        found = [
            (directory, name)
            for directory in (layout.ready, layout.pending, layout.running, layout.done)
            for name in fsops.directories_and_files(directory)[1]
        ]
        blocked = [name for name in fsops.names(layout.blocked) if self._job_id(name) is None]
        return found + [(layout.blocked, name) for name in blocked]

    def ready_entries(self, directories: Iterable[str]) -> list[Entry]:
        """The ready jobs of some schedulers, not sorted."""
        return [
            Entry(name, directory)
            for directory in directories
            for name in fsops.names(f"{self.layout.ready}/{directory}")
        ]

    def outcomes(self) -> Outcomes:
        """What is in `done/`: canceled jobs first, so that the cause of each is still to be seen."""
        ended: dict[int, Ended] = {}
        causes: dict[int, str] = {}
        foreign: list[tuple[str, str]] = []
        order = (Status.CANCELED, Status.FAILED, Status.TERMINATED, Status.COMPLETED)
        for outcome in order:
            for name in fsops.names(self.layout.outcome(outcome)):
                key = self._job_id(name)
                if key is None:
                    foreign.append((f"{self.layout.outcome(outcome)}", name))
                    continue
                known = ended.get(key[0])
                if known is None or known.attempt <= key[1]:
                    ended[key[0]] = Ended(key[1], outcome)
                    causes.pop(key[0], None)
                    if outcome is Status.CANCELED and "~" in name:
                        causes[key[0]] = name
        return Outcomes(ended, causes, foreign)

    def waiting(self, status: Status) -> dict[int, str]:
        """File names by id in `blocked/` or `held/`; foreign names are left out."""
        found: dict[int, tuple[int, str]] = {}
        for name in fsops.names(self.layout.directory_of(status)):
            key = self._job_id(name)
            if key is not None and found.get(key[0], (0, ""))[0] < key[1]:
                found[key[0]] = (key[1], name)  # of two files of one job the higher attempt holds
        return {job: name for job, (_, name) in found.items()}

    def owner_directories(self) -> dict[str, set[Status]]:
        """All directories below `pending/` and `running/` that are somebody's, whether he lives or not."""
        found: dict[str, set[Status]] = {}
        for status in (Status.PENDING, Status.RUNNING):
            for name in fsops.listed(self.layout.directory_of(status)).directories:
                if naming.owners(name) is not None:
                    found.setdefault(name, set()).add(status)
        return found

    def held_by_owners(self) -> list[Place]:
        """The jobs in all runners' hands."""
        return [
            place
            for status in (Status.PENDING, Status.RUNNING)
            for owner in fsops.names(self.layout.directory_of(status))
            for place in self._places(status, owner)
        ]

    def held_by(self, owners: Collection[str]) -> list[Place]:
        """The jobs in the directories of some owners."""
        both = (Status.PENDING, Status.RUNNING)
        return [place for status in both for owner in owners for place in self._places(status, owner)]

    def aside(self) -> list[str]:
        return fsops.names(self.layout.aside)

    def snapshot(self, owners: Collection[str] | None = None) -> dict[int, Place]:
        """Where each job is, by id. A job that moves meanwhile is shown in one of the places where it was;
        if some are missing, the directories are read again. With `owners` only their hands are looked into, once."""
        found: dict[int, Place] = {}
        for tries in range(_SNAPSHOT_TRIES if owners is None else 1):
            for place in self._all_places(owners=owners):
                known = found.get(place.name.id)
                if known is None or known.name.attempt <= place.name.attempt:
                    found[place.name.id] = place
            if len(found) >= self.workflow.num_jobs:
                break
            if tries and len(found.keys() | self.set_aside_jobs()) >= self.workflow.num_jobs:
                break
        return found

    def set_aside_jobs(self) -> set[int]:
        return {key[0] for name in self.aside() if (key := naming.aside_job_id(name)) is not None}

    def locate(self, job: int) -> Place | None:
        """Where one job is now; looks again if it passes behind the reader's back. None: nowhere, or set aside."""
        for _ in range(_SNAPSHOT_TRIES):
            best: Place | None = None
            for place in self._all_places(job):
                if best is None or best.name.attempt <= place.name.attempt:
                    best = place
            if best is not None:
                return best
        return None

    def _all_places(self, only: int | None = None, owners: Collection[str] | None = None) -> Iterator[Place]:
        yield from self._places(Status.BLOCKED, None, only)
        yield from self._places(Status.HELD, None, only)
        for directory in self.ready_directories():
            yield from self._places(Status.READY, directory, only)
        for status in (Status.PENDING, Status.RUNNING):
            for owner in fsops.names(self.layout.directory_of(status)) if owners is None else owners:
                yield from self._places(status, owner, only)
        for outcome in OUTCOMES:
            yield from self._places(outcome, None, only)

    def _places(self, status: Status, detail: str | None, only: int | None = None) -> Iterator[Place]:
        wanted = None if only is None else f"-{only:09d}."
        for filename in fsops.names(self.layout.directory_of(status, detail)):
            if wanted is not None and wanted not in filename:
                continue
            try:
                name = naming.parse_job(filename)
            except BadName:
                continue
            if name.id == only or (only is None and name.id <= self.workflow.num_jobs):
                yield Place(status, detail, filename, name)

    def _job_id(self, name: str) -> tuple[int, int] | None:
        """The id and the attempt in the name of a file of one of this workflow's jobs; None for any other name."""
        key = naming.job_id(name)
        return key if key is not None and key[0] <= self.workflow.num_jobs else None

    # -- contents -------------------------------------------------------------------------------------------

    def path(self, place: Place) -> str:
        return f"{self.layout.directory_of(place.status, place.detail)}/{place.filename}"

    def look_at_job(self, path: str, job_id: int) -> Content | None:
        """As `read_job`, for who does nothing with it. Raises DamagedFile too for what the disk cannot give."""
        return self.read_job(path, job_id, read=fsops.look)

    def read_job(self, path: str, job_id: int, *, read: fsops.Read = fsops.read) -> Content | None:
        """A job's file; None when it is gone.

        Raises DamagedFile when it is torn, of another job, of a version from the future, no regular file, or of
        another user (for who is to run it, in a spool that is not shared), and when it may not be read.
        """
        data = self._read_what_runs(path, read)
        if data is None:
            return None
        content = contents.decode_job(data, path, job_id)
        if content.job.id > self.workflow.num_jobs:
            raise DamagedFile(path, f"the workflow has no job {content.job.id}")
        return content

    def _read_what_runs(self, path: str, read: fsops.Read) -> bytes | None:
        """A file with commands in it; None when it is gone. Raises DamagedFile."""
        try:
            content = read(path, limit=_MAX_JOB_BYTES)
        except StorageError as error:
            if error.errno not in (errno.EACCES, errno.EPERM):
                raise
            raise DamagedFile(path, "may not be read by this user") from error
        if content is None:
            return None
        if self._only_of not in (None, content.owner):
            raise DamagedFile(path, f"belongs to user {content.owner}, not to you; not run")
        if not content.data:
            raise DamagedFile(path, "is empty")
        return content.data

    def read_action(self, path: str, number: int, *, read: fsops.Read = fsops.read) -> Action | None:
        """An action's file; None when it is gone. Raises DamagedFile, as for a job's."""
        data = self._read_what_runs(path, read)
        return None if data is None else contents.decode_action(data, path, number)

    def action_records(self) -> list[Action]:
        """The workflow's own immutable record of all actions, in order. Raises DamagedFile."""
        if not self.workflow.num_actions:
            return []
        content = fsops.read(self.layout.actions_file)
        if content is None:
            raise NotFound(f"{self.layout.actions_file} is missing")
        path = self.layout.actions_file
        return [contents.decode_line(line, path, Action, "action") for line in content.data.splitlines()]

    def current(self, content: Content) -> Content:
        """A job's file as it is to be run: with what a later revision has changed since it was written."""
        changes = self.revisions.changes(content.job)
        return content.redefined(changes) if changes else content

    def records(self) -> Iterator[Job]:
        """The workflow's own immutable record of all jobs, in order of id. Raises DamagedFile."""
        for line in self._record_lines():
            yield self._decode_record(line, Job)

    def record(self, job: int) -> Job:
        """One job as it was submitted. Raises NotFound, DamagedFile."""
        lines = self._record_lines()
        if not 1 <= job <= len(lines):
            raise NotFound(f"workflow {self.workflow.id} has no job {job}")
        return self._decode_record(lines[job - 1], Job)

    def ledger(self) -> Ledger:
        """The dependency graph, without outcomes. Raises NotFound, DamagedFile."""
        return Ledger(self._links())

    def _links(self) -> Iterator[Link]:
        lines, count = self._record_lines(), self.workflow.num_jobs
        for number, line in enumerate(lines, 1):
            record = self._decode_record(line, _LinkRecord)
            if record.id != number or not all(1 <= awaited <= count for awaited in record.depends_on):
                raise DamagedFile(self.layout.jobs_file, f"says something else than job {number} in line {number}")
            yield Link(record.id, record.depends_on, record.cancel_on_blocking_job_failure, record.scheduler)
        if len(lines) != count:
            raise DamagedFile(self.layout.jobs_file, f"holds {len(lines)} of {count} jobs")

    def _record_lines(self) -> list[bytes]:
        content = fsops.read(self.layout.jobs_file)
        if content is None:
            raise NotFound(f"{self.layout.jobs_file} is missing")
        return content.data.splitlines()

    def _decode_record(self, line: bytes, kind: type[T]) -> T:
        return contents.decode_line(line, self.layout.jobs_file, kind, "job")

    def runner_record(self, directory: str) -> RunnerRecord | None:
        """Who a runner is; None when it never came to say so."""
        record: RunnerRecord | None = contents.read_record(f"{directory}/runner.json", RunnerRecord)
        return record

    def runner_end(self, directory: str) -> RunnerEnd | None:
        end: RunnerEnd | None = contents.read_record(f"{directory}/end.json", RunnerEnd)
        return end

    # -- moves ----------------------------------------------------------------------------------------------

    def move(
        self,
        move: Move,
        place: Place,
        status: Status,
        detail: str | None = None,
        *,
        new_attempt: bool = False,
        rank: int | None = None,
        needs: Needs | None = None,
        cause: Cause | None = None,
    ) -> Place | None:
        """One rename, if the table allows it. None when the file is not there any more."""
        name = place.name._replace(
            attempt=place.name.attempt + new_attempt,
            rank=place.name.rank if rank is None else rank,
            needs=place.name.needs if needs is None else needs,
            key=place.name.key if needs is None else sortkeys.key(self.workflow.jobs_sort_method, needs),
            cause=cause,
        )
        lifecycle.check(move, place.status, status, place.name.attempt, name.attempt)
        filename = str(name)
        target = f"{self.layout.directory_of(status, detail)}/{filename}"
        if not fsops.rename(self.path(place), target):
            return None
        return Place(status, detail, filename, name)

    def set_aside(self, directory: str, name: str) -> bool:
        """Park what cannot be understood. False when it is gone, or when it is none of ours to move (read-only)."""
        try:
            return self.park(directory, name)
        except StorageError:
            return False

    def park(self, directory: str, name: str) -> bool:
        """The same for who cannot go on while it lies there. Raises StorageError."""
        target = naming.aside_name(name, os.path.relpath(directory, self.layout.root))
        return fsops.rename(f"{directory}/{name}", f"{self.layout.aside}/{target}")

    def ready_detail(self, job: Job) -> str:
        return naming.scheduler_directory(job.scheduler)
