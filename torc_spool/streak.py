"""Whether the jobs that fail here one after the other are the fault of this host: pure."""

from __future__ import annotations

import enum
from typing import NamedTuple

from torc_spool.model import Attempt, Status

SICK_AFTER = 5
SICK_WITHIN_S = 1.0


class Failed(NamedTuple):
    """An attempt that failed at once."""

    workflow: int
    job: int
    attempt: int


class Streak:
    """Different jobs that have failed at once, with none in between that completed or lasted."""

    def __init__(self, most: int = SICK_AFTER, within_s: float = SICK_WITHIN_S) -> None:
        self._most, self._within_s = most, within_s
        self._jobs: dict[tuple[int, int], Failed] = {}
        self.is_judged = False  # whether it has been looked into since it began, for good
        self.put_off_at = 0  # how long it was when it was last looked into and nobody else was there

    def note(self, workflow: int, job: int, attempt: Attempt) -> None:
        """A job has come to its end here. One that somebody ended tells nothing."""
        if failed_at_once(attempt, self._within_s):
            self._jobs[workflow, job] = Failed(workflow, job, attempt.attempt)
        elif attempt.outcome in (Status.COMPLETED, Status.FAILED):
            self._jobs.clear()
            self.is_judged, self.put_off_at = False, 0

    @property
    def is_long(self) -> bool:
        return 0 < self._most <= len(self._jobs) - self.put_off_at and not self.is_judged

    def put_off(self) -> None:
        """To be looked into again when it has become as much longer: others may be there then."""
        self.put_off_at = len(self._jobs)

    @property
    def failed(self) -> list[Failed]:
        return list(self._jobs.values())

    def __str__(self) -> str:
        count = len(self._jobs)
        what = f"{count} different jobs in a row" if count > 1 else "a job"
        return f"{what} failed within {self._within_s:g} s of their start"


def failed_at_once(attempt: Attempt, within_s: float) -> bool:
    """Not of one that ran out of memory or time: that is the job's."""
    return (
        attempt.outcome is Status.FAILED
        and attempt.cause is None
        and attempt.exec_s is not None
        and attempt.exec_s <= within_s
    )


class Verdict(enum.Enum):
    """What a long streak means."""

    SICK = enum.auto()  # this host: it claims nothing more
    ALONE = enum.auto()  # nobody else could run the jobs
    WORKFLOW = enum.auto()  # the jobs: they fail elsewhere too


def verdict(*, is_asked_for: bool, has_company: bool, others_fail_too: bool, any_completed: bool) -> Verdict:
    """`is_asked_for`: a person has said the number. `has_company`: other runners are at work, or other nodes can be
    had. `others_fail_too`: another host is noted as sick; then it is the hosts only if any job has ever completed."""
    if is_asked_for:
        return Verdict.SICK
    if not has_company:
        return Verdict.ALONE
    return Verdict.WORKFLOW if others_fail_too and not any_completed else Verdict.SICK
