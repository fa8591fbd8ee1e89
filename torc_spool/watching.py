"""Watching a workflow to its end, and helping on the way: rounds, each complete in itself.

Nothing is kept between rounds that matters: a watch may be killed at any time, and the next one goes on.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from torc_spool import allocationreport, allocations, ceilings, mend, naming, report, scheduling, slurm, squeue
from torc_spool.allocations import Wish
from torc_spool.errors import EXIT_JOBS_FAILED, EXIT_JOBS_LEFT, EXIT_OK, EXIT_STOPPED, NotFound, SlurmError
from torc_spool.mend import Case
from torc_spool.model import Allocation, Needs
from torc_spool.pace import Pace
from torc_spool.remedies import Terms
from torc_spool.report import Row
from torc_spool.select import ReadyQueue
from torc_spool.spool import nobody_works
from torc_spool.store import Store

FIRST_POLL_S = 0.5
LONGEST_POLL_S = 30.0
REFUSED_S = 300.0
FRUITLESS = 3  # so often in a row nodes may be asked for without anything coming of it


class Help(NamedTuple):
    """What a watch does beyond looking."""

    terms: Terms = Terms()
    num_allocations: int = 1  # of a scheduler, when there are no runners and no allocations left


class Seen(NamedTuple):
    """How a watch ended."""

    row: Row  # the status of the workflow
    cases: list[Case]  # what did not complete
    causes: dict[str, int]  # of all attempts, whether they were repeated or not
    exit_code: int


def watch(
    store: Store,
    spool_path: str,
    *,
    help_with: Help | None = None,
    poll_s: float = LONGEST_POLL_S,
    timeout_s: float | None = None,
    tell: Callable[[str], None] = lambda _line: None,
) -> Seen:
    """Until every job has an outcome that stays, or the time is over; exit codes as of `run`.

    Raises NotFound when the workflow is deleted meanwhile, UsageError, StorageError.
    """
    rounds = _Rounds(store, spool_path, help_with, tell)
    pace = Pace(FIRST_POLL_S)
    ends_at = math.inf if timeout_s is None else time.monotonic() + timeout_s
    while True:
        row, changed = rounds.one()
        if row["finished"] or rounds.gave_up or time.monotonic() >= ends_at:
            return _end(store, row, help_with, gave_up=rounds.gave_up)
        if changed:
            pace.now()
        pace.slower(poll_s)
        time.sleep(max(0.0, min(pace.at, ends_at) - time.monotonic()))


def _end(store: Store, row: Row, help_with: Help | None, *, gave_up: bool) -> Seen:
    code = EXIT_JOBS_LEFT if gave_up else EXIT_STOPPED
    if row["finished"]:
        code = EXIT_OK if row["jobs"]["completed"] == row["total"] else EXIT_JOBS_FAILED
    causes = Counter(result["cause"] for result in report.results(store) if result["cause"] is not None)
    terms = help_with.terms if help_with is not None else Terms()
    return Seen(row, mend.look(store, terms), dict(sorted(causes.items())), code)


class _Rounds:
    """One look after the other."""

    def __init__(self, store: Store, spool_path: str, help_with: Help | None, tell: Callable[[str], None]) -> None:
        self._store, self._spool_path, self._help, self._tell = store, spool_path, help_with, tell
        self._told: set[str] = set()
        self._counts: dict[str, int] | None = None
        self._ended_then = -1  # how many jobs had ended when nodes were last asked for
        self._fruitless = 0
        self._ask_at = -math.inf  # no sooner nodes are asked for
        self.gave_up = False
        self._inquiry = squeue.Inquiry()
        if help_with is not None:
            help_with.terms.check()

    def one(self) -> tuple[Row, bool]:
        """The status after it, and whether anything has changed since the last round."""
        if not self._store.exists():
            raise NotFound(f"workflow {self._store.workflow.id} was deleted")
        if self._help is not None:
            self._recover(self._help.terms)
            if time.monotonic() >= self._ask_at and self._store.workflow.num_actions and slurm.is_here():
                self._heed_refusals(self._perform_due)
        row = report.status(self._store)
        changed = row["jobs"] != self._counts
        if changed:
            self._counts = row["jobs"]
            self._tell(_progress(row))
        if not row["finished"] and not any(runner["state"] in ("alive", "silent") for runner in row["runners"]):
            self._nobody_works(row)
        return row, changed

    def _recover(self, terms: Terms) -> None:
        recovery = mend.recover(self._store, terms)
        for owner in recovery.owners:
            self._tell(f"runner {owner.name} is dead: {owner.evidence}")
        for case in recovery.cases:
            if case.remedy.is_retried:
                self._tell(f"job {case.name} ({case.remedy.cause}) runs again: {case.remedy.why}")

    def _nobody_works(self, row: Row) -> None:
        if self._help is None or not self._store.workflow.schedulers or not slurm.is_here():
            self._once(nobody_works(self._store, self._spool_path))
            return
        if time.monotonic() >= self._ask_at:
            count = self._help.num_allocations
            self._heed_refusals(lambda: self._schedule(row, count))

    def _once(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self._tell(line)

    # -- nodes ----------------------------------------------------------------------------------------------

    def _heed_refusals(self, ask: Callable[[], None]) -> None:
        """What Slurm refuses is said once, and asked for again after a while."""
        try:
            ask()
        except SlurmError as error:
            self._ask_at = time.monotonic() + REFUSED_S
            self._once(f"no nodes are asked for now: {error}")

    def _perform_due(self) -> None:
        """Runners may be where no sbatch is: what actions ask for, whose time has come, is asked for from here."""

        def note(given: Allocation) -> None:
            self._tell(f"an action is due: allocation {given.job_id} of scheduler {given.scheduler} is asked for")

        scheduling.perform_due(self._store, note)

    def _schedule(self, row: Row, count: int) -> None:
        """Ask for nodes, where none are there or to come. Raises SlurmError."""
        wanted = waiting_schedulers(self._store)
        if not wanted or self._any_to_come(self._inquiry):
            return
        ended = sum(row["jobs"][outcome] for outcome in ("completed", "failed", "canceled", "terminated"))
        if ended != self._ended_then:
            self._ended_then, self._fruitless = ended, 0
        if self._fruitless >= FRUITLESS:
            self._tell(f"{FRUITLESS} times in a row nodes were asked for and no job has ended: asking no more")
            self.gave_up = True
            return
        self._inquiry = squeue.Inquiry()  # what it knows is of before
        with scheduling.turn(self._store) as is_ours:
            if not is_ours or self._any_to_come(self._inquiry):
                return  # another watch asks, or has asked since
            for scheduler in wanted:
                self._ask_for(scheduler, count)
        self._fruitless += 1  # only now: what Slurm has refused is asked for again
        self._inquiry = squeue.Inquiry()

    def _any_to_come(self, inquiry: squeue.Inquiry) -> bool:
        """Whether any allocation has not ended. Raises SlurmError."""
        rows, trouble = allocationreport.status(self._store, inquiry)
        if trouble is not None:
            raise trouble
        return any(each["state"] not in squeue.ENDED and each["said_by"] is not None for each in rows)

    def _ask_for(self, scheduler: str, count: int) -> None:
        def note(given: Allocation) -> None:
            self._tell(f"no nodes were left: allocation {given.job_id} of scheduler {scheduler} is asked for")

        key = next_key(scheduling.tag(self._store), [each.key for each in allocations.recorded(self._store)], scheduler)
        prepared = allocations.prepare(self._store, Wish(scheduler=scheduler), allocations.program(), key)
        # whoever was killed between sbatch and the record has asked for these already
        scheduling.ask_for(self._store, prepared, count, again=True, tell=note)


def next_key(tag: str, keys: list[str], scheduler: str) -> str:
    """By what the next allocations that a watch asks for are found in Slurm: the same for the next watch, until one is
    recorded."""
    mine = re.compile(rf"{tag}-w(\d+)\.{re.escape(naming.slugify(scheduler))}")
    last = max((int(match[1]) for key in keys if (match := mine.fullmatch(key))), default=0)
    return f"{tag}-w{last + 1}.{naming.slugify(scheduler)}"


def waiting_schedulers(store: Store) -> list[str]:
    """The schedulers for which jobs are ready. Where only jobs are that any runner may claim: the first that has
    enough for one of them."""
    workflow = store.workflow
    names = [str(each["name"]) for each in workflow.schedulers]
    ready = store.ready_directories()
    bound = [
        name for name in names if (directory := naming.scheduler_directory(name)) in ready and _needs(store, directory)
    ]
    if bound:
        return bound
    free = list(_needs(store, naming.ANY_SCHEDULER))
    limits = {
        name: ceilings.of_job(name, workflow.schedulers, workflow.slurm_defaults, workflow.settings, [])
        for name in (names if free else ())
    }
    return [name for name, has in limits.items() if any(has.gives(needs) for needs in free)][:1]


def _needs(store: Store, directory: str) -> set[Needs]:
    queue = ReadyQueue(store.ready_entries([directory]))
    return {queue.needs_of(entry) for entry in queue}


def _progress(row: Row) -> str:
    shown = ", ".join(f"{count} {state}" for state, count in row["jobs"].items() if count)
    return f"{row['total']} jobs: {shown}"


def rows(seen: Seen) -> Row:
    """What a program wants to know of the end of a watch."""
    return {
        **seen.row,
        "exit_code": seen.exit_code,
        "causes": seen.causes,
        "failures": [case.row() for case in seen.cases],
    }


def lines(seen: Seen) -> Iterator[str]:
    """The report for a person, but for the jobs that did not complete."""
    yield _progress(seen.row)
    if seen.causes:
        yield "attempts that were " + ", ".join(f"{cause}: {count}" for cause, count in seen.causes.items())
