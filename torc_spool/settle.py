"""What must follow an outcome: release, cancellation down the graph, revival. Anybody may do it, any number of times.

The directories are the truth. Names that were remembered are only tried: a rename of one that is gone does nothing,
and the next full pass finds the job by its id.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import cached_property

from torc_spool import naming
from torc_spool.graph import Ledger, Verdict
from torc_spool.lifecycle import Move
from torc_spool.model import Status
from torc_spool.select import Entry
from torc_spool.store import Place, Store
from torc_spool.triggers import Watch

_PASSES = 100  # a pass that changed something is followed by another


class Settler:
    """Settles one workflow. Holds the graph; a workflow without dependencies has none, and costs nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._blocked: dict[int, str] = {}  # names remembered from the last pass
        self._back: set[int] = set()  # jobs that we have moved out of `done/`
        self._unknown = False  # whether something was to follow for a job whose name we do not remember
        self.due = store.workflow.num_edges > 0  # whether something may have changed that only a listing can tell
        self.cost_s = 0.0  # of the last full pass
        self.watch: Watch | None = None  # of a workflow with actions: is told what becomes of jobs here
        self.is_alone = False  # whether nobody else has jobs of the workflow

    def missed(self) -> None:
        """Something may have been left undone, or not been noted."""
        self.due = self._store.workflow.num_edges > 0
        if self.watch is not None:
            self.watch.due = True

    def came_back(self, job: int) -> None:
        """A job has no outcome any more: it was moved out of `done/` to be run again."""
        if self.ledger is not None:
            self.ledger.forget(job)
            self._back.add(job)

    @cached_property
    def ledger(self) -> Ledger | None:
        """The graph with the outcomes as they were last seen; None where nobody waits for anybody."""
        return self._store.ledger() if self._store.workflow.num_edges else None

    def after(self, job: int, attempt: int, outcome: Status) -> list[Entry]:
        """What follows from an outcome of one's own, by remembered names: no listing. Returns what became ready."""
        if self.watch is not None:
            self.watch.ended(job, alone=self.is_alone)
        if self.ledger is None:
            return []
        self._unknown = False
        released = self._apply(self.ledger.note(job, attempt, outcome))
        # what somebody has brought back since our last pass waits by a name that only a listing tells
        self.due = self.due or self._unknown
        # others may have finished at the same moment, and each of us knows only of itself
        self.due = self.due or any(self.ledger.verdict(dependent) is None for dependent in self.ledger.dependents(job))
        return released

    def settle(self) -> list[Entry]:
        """A full pass over fresh listings, and again until nothing changes. Returns what became ready."""
        if self.ledger is None:
            if not self._store.waiting(Status.BLOCKED):
                return []
            self.ledger = self._store.ledger()  # where nobody waits, a person has put somebody to wait
        started = time.monotonic()
        released: list[Entry] = []
        for _ in range(_PASSES):
            self.due = False
            # in this order: a retry that comes between is either seen in the outcomes, or has renamed what waits
            self._blocked = self._store.waiting(Status.BLOCKED)
            outcomes = self._store.outcomes()
            self.ledger.sync(outcomes.ended)
            revived = self._revive(outcomes.causes)
            self._wait_anew()
            verdicts = [self.ledger.verdict(job) for job in self._blocked]
            released += self._apply(verdict for verdict in verdicts if verdict is not None)
            if not revived and not self.due:
                break
        self.cost_s = time.monotonic() - started
        return released

    def _apply(self, verdicts: Iterable[Verdict]) -> list[Entry]:
        assert self.ledger is not None
        released: list[Entry] = []
        stack = list(verdicts)
        stack.reverse()
        while stack:
            verdict = stack.pop()
            filename = self._blocked.pop(verdict.id, None)
            if filename is None:
                self._unknown = True
                continue  # moved on already, or held; if it comes back to blocked a listing shows it
            place = Place(Status.BLOCKED, None, filename, naming.parse_job(filename))
            if verdict.cause is None:
                directory = naming.scheduler_directory(self.ledger.scheduler(verdict.id))
                moved = self._store.move(Move.RELEASE, place, Status.READY, directory)
                if moved is not None:
                    released.append(Entry(moved.filename, directory))
                    if self.watch is not None:
                        self.watch.became_ready(verdict.id, alone=self.is_alone)
            else:
                moved = self._store.move(Move.CASCADE, place, Status.CANCELED, cause=verdict.cause)
                if moved is not None:
                    if self.watch is not None:
                        self.watch.ended(verdict.id, alone=self.is_alone, was_ready=False)
                    stack += self.ledger.note(verdict.id, moved.name.attempt, Status.CANCELED)
            self.due = self.due or moved is None
        return released

    def _revive(self, causes: dict[int, str]) -> bool:
        """Bring back to blocked what was canceled because of an attempt that no longer is an outcome."""
        assert self.ledger is not None
        names = {job: naming.parse_job(filename) for job, filename in causes.items()}
        because_of: dict[int, list[int]] = {}
        for job, name in names.items():
            if name.cause is not None:
                because_of.setdefault(name.cause.id, []).append(job)
        revived = False
        stack = sorted(names, reverse=True)
        while stack:
            job = stack.pop()
            cause = names[job].cause
            if cause is None or job not in self.ledger.ended or not self.ledger.is_stale(cause):
                continue
            place = Place(Status.CANCELED, None, causes[job], names[job])
            self._store.move(Move.REVIVE, place, Status.BLOCKED, new_attempt=True)  # or somebody else does it
            self.came_back(job)
            stack += because_of.get(job, ())
            revived = True
        return revived

    def _wait_anew(self) -> None:
        """A new attempt for those that wait for what came back, so that nobody releases them by an old name (w2)."""
        assert self.ledger is not None
        back, self._back = self._back, set()
        if not back:
            return
        held = self._store.waiting(Status.HELD)  # they too were perhaps remembered when they were blocked
        for job in sorted({job for awaited in back for job in self.ledger.undeterred(awaited)}):
            status = Status.HELD if job in held else Status.BLOCKED
            filename = held.get(job) or self._blocked.pop(job, None)
            if filename is None:
                continue
            place = Place(status, None, filename, naming.parse_job(filename))
            moved = self._store.move(Move.WAIT_ANEW, place, status, new_attempt=True)
            if moved is not None and status is Status.BLOCKED:
                self._blocked[job] = moved.filename
            self.due = self.due or moved is None
