"""A plain model in memory of one workflow, its runners, and what may be done to them."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import strategies as st
from spooltools import Hand, Wanted

from torc_spool import naming
from torc_spool.causes import MAX_RUNNER_DEATHS
from torc_spool.model import OUTCOMES, UNSUCCESSFUL, Status
from torc_spool.naming import Cause

GPU = "gpu"
T = TypeVar("T")
CHOICE = st.integers(0, 10_000)  # one of what there is at the moment
FIRST_PID = 10_000_000  # larger than any real one
ENDS = st.sampled_from(OUTCOMES)


BY_HAND = {
    Status.READY: ("canceled", "held", "any", GPU, "rank"),
    Status.BLOCKED: ("canceled", "held", "any", GPU, "rank"),
    Status.HELD: ("canceled", "any", GPU, "blocked", "rank"),
    **dict.fromkeys(OUTCOMES, ("any", GPU, "blocked")),
}


Key = tuple[str, str | None]


def expected_claims(view: list[Key], ready: list[Key], slots: int, *, looks_again: bool) -> list[Key]:
    """What a runner gets that walks along its view: past what others have taken since, or, where there are others, in a
    fresh view as soon as it has met such a job."""
    got: list[Key] = []
    while slots > len(got) and view:
        some = slots - len(got)
        picks, view = view[:some], view[some:]
        got += [key for key in picks if key in ready]
        if looks_again and not {*picks} <= {*ready}:
            view, looks_again = [key for key in ready if key not in got], False
    return got


def one_of(things: list[T], number: int) -> T:
    return things[number % len(things)]


class Died(BaseException):
    """The death of a process, here and now: nothing catches it."""


@dataclass
class ModelJob:
    """All that is to be known of a job."""

    id: int
    name: str
    awaited: tuple[int, ...]
    anyway: bool
    submitted_to: str | None  # scheduler
    status: Status | None  # None: set aside
    detail: str | None  # scheduler's or owner's directory
    attempt: int
    priority: int
    bound: str | None  # the scheduler in the content
    cause: Cause | None = None
    attempts: list[tuple[int, str | None]] = field(default_factory=list)
    damaged: bool = False
    by_hand: bool = False  # it was moved by hand: it may be where nothing else would have put it
    early: bool = False  # or it waits for one that was: it may be ready before its time
    loose: bool = False  # somebody may remember an outcome that it waited for and that is one no more

    @property
    def ended(self) -> bool:
        return self.status in OUTCOMES

    @property
    def recorded(self) -> str | None:
        """The result of its attempt, if that is in the content."""
        return self.attempts[-1][1] if self.attempts and self.attempts[-1][0] == self.attempt else None

    def go(self, status: Status, detail: str | None = None, *, again: bool = False, cause: Cause | None = None) -> None:
        self.status, self.detail, self.cause = status, detail, cause
        self.attempt += again

    def back(self) -> None:
        self.go(Status.READY, naming.scheduler_directory(self.bound), again=True)


class Model:
    """The jobs and the wishes, and what follows from them."""

    def __init__(self, jobs: dict[str, Wanted]) -> None:
        ids = {name: number for number, name in enumerate(jobs, 1)}
        self.wishes: set[Cause] = set()
        self.jobs = {
            ids[name]: ModelJob(
                id=ids[name],
                name=name,
                awaited=tuple(ids[other] for other in wanted.after),
                anyway=wanted.anyway,
                submitted_to=wanted.scheduler,
                status=Status.BLOCKED if wanted.after else Status.READY,
                detail=None if wanted.after else naming.scheduler_directory(wanted.scheduler),
                attempt=1,
                priority=wanted.priority,
                bound=wanted.scheduler,
            )
            for name, wanted in jobs.items()
        }

    def where(self, *statuses: Status) -> list[ModelJob]:
        return [job for job in self.jobs.values() if job.status in statuses]

    def waiting_for(self, job: ModelJob) -> list[ModelJob]:
        return [other for other in self.jobs.values() if job.id in other.awaited]

    def holds(self, cause: Cause) -> bool:
        job = self.jobs[cause.id]
        return job.status in UNSUCCESSFUL and job.attempt == cause.attempt

    def spoilers(self, job: ModelJob) -> list[Cause]:
        failed = [self.jobs[other] for other in job.awaited if self.jobs[other].status in UNSUCCESSFUL]
        return [] if job.anyway else [Cause(other.id, other.attempt) for other in failed]

    def may_run(self, job: ModelJob, but: Collection[int] = ()) -> bool:
        """Whether what it waits for allows it; the outcomes of some do not count any more."""
        spoiled = any(cause.id not in but for cause in self.spoilers(job))
        return not spoiled and all(self.jobs[other].ended and other not in but for other in job.awaited)

    def root(self, job: ModelJob) -> int | None:
        """The job with which it began, for one that was canceled because of another."""
        seen = {job.id}
        while job.status is Status.CANCELED and job.cause and job.cause.id not in seen:
            job = self.jobs[job.cause.id]
            seen.add(job.id)
        return job.id if len(seen) > 1 else None

    def settle(self, back: Iterable[ModelJob] = ()) -> None:
        """To the end: revival, new names, release and cancellation."""
        returned = list(back)
        while stale := [job for job in self.where(Status.CANCELED) if job.cause and not self.holds(job.cause)]:
            for job in stale:
                job.go(Status.BLOCKED, again=True)
                returned.append(job)
        for job in self.where(Status.BLOCKED, Status.HELD):
            if job.anyway and {other.id for other in returned} & {*job.awaited}:
                job.attempt += 1
        moved = True
        while moved:
            moved = False
            for job in self.where(Status.BLOCKED):
                if causes := self.spoilers(job):
                    job.go(Status.CANCELED, cause=causes[0])
                elif self.may_run(job):
                    job.go(Status.READY, naming.scheduler_directory(job.submitted_to))
                moved = moved or job.status is not Status.BLOCKED

    def take_back(self, job: ModelJob) -> None:
        """What recovery makes of a job in dead hands."""
        wish = Cause(job.id, job.attempt)
        if job.damaged:
            job.status = None
        elif job.status is Status.RUNNING and job.recorded in OUTCOMES:
            job.go(Status(job.recorded))
        elif wish in self.wishes:
            self.wishes.discard(wish)
            self._note_lost(job, Status.CANCELED)
            job.go(Status.CANCELED)
        elif self.has_killed_too_many(job):
            self._note_lost(job, Status.FAILED)
            job.go(Status.FAILED)
        else:
            self._note_lost(job, None)
            job.back()

    @staticmethod
    def has_killed_too_many(job: ModelJob) -> bool:
        """Whether this is the third runner that died while it ran the job, since it had an outcome."""
        if job.status is not Status.RUNNING or (job.attempts and job.attempts[-1][0] >= job.attempt):
            return False
        lost = itertools.takewhile(lambda attempt: attempt[1] is None, reversed(job.attempts))
        return len(list(lost)) + 1 >= MAX_RUNNER_DEATHS

    def _note_lost(self, job: ModelJob, outcome: str | None) -> None:
        if job.status is Status.RUNNING and not (job.attempts and job.attempts[-1][0] >= job.attempt):
            job.attempts.append((job.attempt, outcome))


@dataclass
class Crew:
    """A runner of the model: alive, dead, or taken for dead while it lives."""

    hand: Hand
    serves: list[str] | None  # directories below ready/; None: all
    alive: bool = True
    fenced: bool = False
    claimed: dict[int, Any] = field(default_factory=dict)  # pending, by id

    @property
    def holds(self) -> bool:
        return bool(self.claimed or self.hand.running)


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Wanted]:
    """Jobs that wait for any others, as long as they do not wait in a circle."""
    names = [f"job{number}" for number in range(1, draw(st.integers(3, 6)) + 1)]
    order = draw(st.permutations(names))
    wanted = {}
    for index, name in enumerate(order):
        earlier = st.lists(st.sampled_from(order[:index]), max_size=3, unique=True) if index else st.just([])
        wanted[name] = Wanted(
            after=tuple(draw(earlier)),
            anyway=draw(st.booleans()),
            scheduler=draw(st.sampled_from([None, None, GPU])),
            priority=draw(st.integers(0, 1)),
        )
    return {name: wanted[name] for name in names}
