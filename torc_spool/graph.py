"""Who waits for whom, and what follows from the outcomes: pure, and in time proportional to the edges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torc_spool.model import Status
from torc_spool.naming import Cause


class Link(NamedTuple):
    """What the graph must know of a job."""

    id: int
    depends_on: tuple[int, ...] = ()
    cancel_on_failure: bool = True
    scheduler: str | None = None


class Ended(NamedTuple):
    """An outcome as the directories show it."""

    attempt: int
    outcome: Status


class Verdict(NamedTuple):
    """What is to happen with a blocked job: release it, or cancel it because of another one."""

    id: int
    cause: Cause | None = None  # None: release


class Ledger:
    """The graph with the outcomes known so far. Says which blocked jobs can be decided; touches no file.

    `noted` outcomes are facts from a listing or from one's own moves; a retried job is `forgotten` until it ends again.
    """

    def __init__(self, links: Iterable[Link]) -> None:
        self._links: dict[int, Link] = {}
        self._dependents: dict[int, list[int]] = {}
        self._open: dict[int, int] = {}  # how many awaited jobs have not ended
        self._spoiled: dict[int, Cause] = {}  # because of which ended job it must be canceled
        self._also: dict[int, list[Cause]] = {}  # because of which others; some may hold no more
        self.ended: dict[int, Ended] = {}
        for link in links:
            self._links[link.id] = link
            self._open[link.id] = len(link.depends_on)
            for awaited in link.depends_on:
                self._dependents.setdefault(awaited, []).append(link.id)

    def scheduler(self, job: int) -> str | None:
        return self._links[job].scheduler

    def awaited(self, job: int) -> tuple[int, ...]:
        return self._links[job].depends_on

    def dependents(self, job: int) -> list[int]:
        return self._dependents.get(job, [])

    def undeterred(self, job: int) -> list[int]:
        """Those that wait for a job, but are not canceled when it does not complete."""
        return [dependent for dependent in self.dependents(job) if not self._links[dependent].cancel_on_failure]

    def verdict(self, job: int) -> Verdict | None:
        """None while the job has to wait on, or is none of this workflow's."""
        if job not in self._links:
            return None
        cause = self._spoiled.get(job)
        if cause is not None:
            return Verdict(job, cause)
        return Verdict(job) if self._open[job] == 0 else None

    def note(self, job: int, attempt: int, outcome: Status) -> list[Verdict]:
        """Take in an outcome; returns what has now been decided of the jobs that wait for it."""
        known = self.ended.get(job)
        if known is not None:
            if known == (attempt, outcome):
                return []
            self.forget(job)
        self.ended[job] = Ended(attempt, outcome)
        decided = []
        for dependent in self._dependents.get(job, ()):
            self._open[dependent] -= 1
            if outcome is not Status.COMPLETED and self._links[dependent].cancel_on_failure:
                self._spoil(dependent, Cause(job, attempt))
            verdict = self.verdict(dependent)
            if verdict is not None:
                decided.append(verdict)
        return decided

    def forget(self, job: int) -> None:
        """The job has no outcome any more: it was retried."""
        if self.ended.pop(job, None) is None:
            return
        for dependent in self._dependents.get(job, ()):
            self._open[dependent] += 1
            if dependent in self._spoiled and self._spoiled[dependent].id == job:
                self._respoil(dependent)

    def _spoil(self, job: int, cause: Cause) -> None:
        if job in self._spoiled:
            self._also.setdefault(job, []).append(cause)
        else:
            self._spoiled[job] = cause

    def _respoil(self, job: int) -> None:
        """The cause holds no more. Each other one is looked at once, so that this costs no more than they did."""
        del self._spoiled[job]
        others = self._also.get(job, [])
        while others:
            cause = others.pop()
            if not self.is_stale(cause):
                self._spoiled[job] = cause
                return

    def sync(self, listing: Mapping[int, Ended]) -> None:
        """Make the ledger agree with a listing of the outcomes."""
        for job in [job for job in self.ended if job not in listing]:
            self.forget(job)
        for job, ended in listing.items():
            if self.ended.get(job) != ended:
                self.note(job, ended.attempt, ended.outcome)

    def is_stale(self, cause: Cause) -> bool:
        """Whether a cancellation names an attempt that is no longer that job's outcome."""
        ended = self.ended.get(cause.id)
        return ended is None or ended.attempt != cause.attempt or ended.outcome is Status.COMPLETED

    def could_follow(self, held: Iterable[int]) -> set[int]:
        """All jobs that wait, directly or not, for any of these."""
        found: set[int] = set()
        stack = list(held)
        while stack:
            for dependent in self._dependents.get(stack.pop(), ()):
                if dependent not in found:
                    found.add(dependent)
                    stack.append(dependent)
        return found


def cycle(waits: Mapping[int, tuple[int, ...]]) -> list[int] | None:
    """The members of one cycle in order, the first repeated at the end; None when there is none."""
    state: dict[int, int] = {}  # 1: on the current path, 2: finished
    for root in waits:
        if root in state:
            continue
        path = [root]
        iterators = [iter(waits[root])]
        state[root] = 1
        while path:
            successor = next(iterators[-1], None)
            if successor is None:
                state[path.pop()] = 2
                iterators.pop()
            elif state.get(successor) == 1:
                return [*path[path.index(successor) :], successor]
            elif successor not in state and successor in waits:
                state[successor] = 1
                path.append(successor)
                iterators.append(iter(waits[successor]))
    return None
