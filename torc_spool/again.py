"""Which jobs must run again, and why: pure, from what is known of the jobs and of the files that they name."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from graphlib import TopologicalSorter
from typing import NamedTuple

from torc_spool.digest import digest
from torc_spool.fingerprints import Fingerprint, input_paths
from torc_spool.model import OUTCOMES, UNSUCCESSFUL, Attempt, Job, Status
from torc_spool.store import Place

_OWNED = (Status.PENDING, Status.RUNNING)
_EXECUTED = (Status.COMPLETED, Status.FAILED, Status.TERMINATED)


class Known(NamedTuple):
    """What is known of a job."""

    job: Job  # as it is to be run next
    place: Place
    filed: Job | None = None  # as its file has it, where that was read

    @property
    def result(self) -> Attempt | None:
        """Of the attempt in its name."""
        last = self.filed.attempts[-1] if self.filed is not None and self.filed.attempts else None
        is_result = last is not None and last.attempt == self.place.name.attempt and last.outcome in OUTCOMES
        return last if is_result else None


class Fate(enum.StrEnum):
    """What is to be done with a job."""

    AGAIN = "again"  # it leaves its outcome
    WAIT = "wait"  # it waits, and shall wait for the new attempt of what it waits for
    REDEFINE = "redefine"  # its name shall tell its new needs


class Step(NamedTuple):
    """What is to be done with one job, and why."""

    known: Known
    fate: Fate
    reasons: tuple[str, ...]

    @property
    def id(self) -> int:
        return self.known.job.id

    @property
    def status(self) -> Status:
        return self.known.place.status

    @property
    def is_told(self) -> bool:
        """Whether anybody wants to know: a job that goes on waiting where it is has nothing new."""
        return self.fate is not Fate.WAIT or self.status is Status.READY


class Plan(NamedTuple):
    """All that is to be done, each job behind those that it waits for; or why nothing is."""

    steps: tuple[Step, ...]
    refusals: tuple[str, ...]

    @property
    def again(self) -> list[Step]:
        return [step for step in self.steps if step.fate is Fate.AGAIN]


class Files:
    """The files that jobs name: as they are now, with sums of their contents where these are to decide."""

    def __init__(
        self,
        now: Mapping[str, Fingerprint],
        *,
        by_content: bool = False,
        user_data: Mapping[str, str] | None = None,
    ) -> None:
        self.now, self.by_content, self.user_data = now, by_content, user_data or {}

    def output_reasons(self, job: Job) -> list[str]:
        return [f"output {path} does not exist" for path in job.output_files if path not in self.now]

    def input_reasons(self, job: Job, attempt: Attempt) -> list[str]:
        """How its inputs differ from what was recorded."""
        found = []
        for path in input_paths(job, self.user_data):
            was, now = attempt.inputs.get(path), self.now.get(path)
            if was is None:
                if now is not None and attempt.digest is not None:  # else nothing was recorded at all
                    found.append(f"input {path} was not there when it ran")
            elif now is None:
                found.append(f"input {path} is gone")
            elif self.by_content and was[2] is not None:
                if was[2] != now[2]:
                    found.append(f"the content of input {path} has changed")
            elif was[:2] != now[:2]:
                note = " (by size and time: no sum was recorded)" if self.by_content else ""
                found.append(f"input {path} has changed{note}")
        return found


def own_reasons(known: Known, files: Files, env: Mapping[str, str]) -> list[str]:
    """Why a job that has an outcome should run again, whatever becomes of others."""
    job, filed, status = known.job, known.filed, known.place.status
    if filed is None or status not in OUTCOMES:
        return []
    reasons = []
    result = known.result
    ran = result.digest if result is not None and result.digest is not None else digest(filed, env)
    if ran != digest(job, env):
        reasons.append(_what_changed(filed, job))
    if result is not None and status in _EXECUTED:
        reasons += files.input_reasons(job, result)
    if status is Status.COMPLETED:
        reasons += files.output_reasons(job)
    elif filed.resources != job.resources:
        reasons.append("its resources have changed")
    return reasons


def _what_changed(filed: Job, job: Job) -> str:
    if filed.command != job.command:
        return "its command has changed"
    if filed.invocation_script != job.invocation_script:
        return "its invocation script has changed"
    return "its environment has changed" if filed.env != job.env else "its command or environment has changed"


def in_order(jobs: Iterable[Job]) -> list[int]:
    """The ids, each behind those that it waits for."""
    return list(TopologicalSorter({job.id: job.depends_on for job in jobs}).static_order())


def plan(jobs: Mapping[int, Known], own: Callable[[Known], list[str]], *, published: int = 0) -> Plan:
    """What follows from each job's `own` reasons, down the graph. Jobs that cannot be found are passed over.

    `published` is the number of the latest revision of the jobs: what is of a later one is told.
    """
    again: dict[int, Step] = {}
    steps: list[Step] = []
    refusals: list[str] = []
    for job in in_order(known.job for known in jobs.values()):
        known = jobs.get(job)
        if known is None:
            continue
        awaited = [jobs[each].job.name for each in known.job.depends_on if each in again]
        status = known.place.status
        step = None
        if status in OUTCOMES:
            reasons = _reasons(known, jobs, again, own)
            if reasons:
                step = again[job] = Step(known, Fate.AGAIN, tuple(reasons))
        elif awaited and status in _OWNED:
            refusals.append(
                f"job {known.job.name!r} is {status} in the hands of {known.place.detail}, and waits for "
                f"{awaited[0]!r}, which is to run again"
            )
        elif awaited:
            step = Step(known, Fate.WAIT, tuple(map(_runs_again, awaited)))
        step = step or _redefined(known, published)
        if step is not None:
            steps.append(step)
    return Plan(tuple(steps), tuple(refusals))


def _runs_again(name: str) -> str:
    return f"{name!r}, which it waits for, runs again"


def _reasons(
    known: Known, jobs: Mapping[int, Known], again: Mapping[int, Step], own: Callable[[Known], list[str]]
) -> list[str]:
    cause = known.place.name.cause
    if cause is not None and known.place.status is Status.CANCELED:
        # whatever else has changed: while that one does not complete, this is canceled anew
        if cause.id not in again:
            return []
        return [f"{jobs[cause.id].job.name!r}, because of which it was canceled, runs again"]
    reasons = own(known)
    for each in known.job.depends_on:
        if each in again:
            reasons.append(_runs_again(jobs[each].job.name))
        elif known.place.status is Status.COMPLETED and each in jobs:
            reasons += _overtaken(known, jobs[each])
    return reasons


def _overtaken(known: Known, awaited: Known) -> list[str]:
    """Whether a job has completed, and what it waits for has not, or did so later."""
    name, status = awaited.job.name, awaited.place.status
    if status in UNSUCCESSFUL:
        return [f"{name!r}, which it waits for, is {status}"] if known.job.cancel_on_blocking_job_failure else []
    if status is not Status.COMPLETED:
        return [f"{name!r}, which it waits for, has not completed: it is {status}"]
    first, second = awaited.result, known.result
    if first is None or second is None or first.attempt == 1 or first.end_time is None or second.start_time is None:
        return []
    if first.end_time <= second.start_time:
        return []
    clocks = "" if first.host == second.host else f" (by the clocks of {first.host} and {second.host})"
    return [f"{name!r}, which it waits for, has run again since{clocks}"]


def _redefined(known: Known, published: int) -> Step | None:
    """A job that is not run again by this, with a new definition, or a name that does not tell its new needs yet."""
    filed, job = known.filed, known.job
    if filed is None or job.revision == filed.revision or known.place.status in (*_OWNED, *_EXECUTED):
        return None
    if job.revision > published:
        return Step(known, Fate.REDEFINE, ("its definition has changed",))
    tells = filed.resources.needs == job.resources.needs or known.place.name.needs == job.resources.needs
    return None if tells else Step(known, Fate.REDEFINE, ("its needs have changed",))
