"""The jobs in a runner's hands, from claimed to recorded.

What the node or the disk refuses for a moment is tried again: a job that cannot be started yet waits in `running`
without a process, a result that cannot be recorded yet waits here; both keep their slot, and the runner claims nothing
more meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import time
from collections.abc import Callable, Collection, Iterator

from torc_spool import causes, processes, recording
from torc_spool.actor import Given
from torc_spool.errands import Errands
from torc_spool.errors import StorageError
from torc_spool.execution import TASK_VARIABLE, Ending, Execution
from torc_spool.limits import Limits
from torc_spool.model import Status
from torc_spool.naming import Cause
from torc_spool.oomkills import OomCounter
from torc_spool.orphans import Orphans
from torc_spool.served import Claimed, Served
from torc_spool.slots import Slots
from torc_spool.spawn import Spawner
from torc_spool.starter import BASH, Starter
from torc_spool.streak import Streak

RECORD_RETRY_S = 5.0
ORPHANS_S = 0.25
DOUBT_S = 1.0  # so long after a job that may have been stopped with us our own signal may come
START_RETRY_S = 1.0
START_TROUBLE_S = 15.0  # a node that cannot start jobs for so long is sick


class Executor:
    """Starts, watches, limits, ends and records jobs. `turn` it whenever something may have happened."""

    def __init__(
        self,
        slots: Slots,
        *,
        grace_s: float,
        limit_resources: bool,
        in_allocation: bool,
        tell: Callable[[str], None],
        complain: Callable[[str], None],
        wake: Callable[[], None],
    ) -> None:
        self.slots, self.grace_s, self._in_allocation = slots, grace_s, in_allocation
        self.recorded: dict[Status, int] = {}
        self._limits = Limits(grace_s, enforced=limit_resources and not slots.ignores_resources)
        self._tell, self._complain = tell, complain
        self.streak = Streak()
        self._spawner = Spawner(wake)
        self._oom = OomCounter()
        self._orphans = Orphans()
        self._lone: Execution | None = None  # the last one that ran when no other did
        self.errands = Errands(wake, complain, BASH)  # what runs beside the jobs
        self._running: dict[int, Execution] = {}  # by pid
        self._launching: dict[int, Execution] = {}  # by id(execution): their processes are being made
        self._unstarted: list[Execution] = []  # running, as the spool sees it, but the process could not be made
        self._unrecorded: list[Execution] = []  # ended, but the disk would not take it
        self._doubtful: dict[Execution, float] = {}  # ended, but perhaps not by themselves; until when that is open
        self._of: dict[int, tuple[Served, Starter]] = {}  # by id(execution)
        self._ending: Ending | None = None  # what is started from now on ends like all else
        self._sparing = False  # whether that holds only for jobs that support termination
        self._killing = False
        self.gives_back = False  # whether jobs that cannot be started go back to ready instead of being tried again
        self._retry_at = math.inf
        self._orphans_at = math.inf  # when to look for what ended jobs have left
        self._give_up_at = math.inf  # on results that the disk will not take
        self._unstartable_since = math.inf

    # -- state ----------------------------------------------------------------------------------------------

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def has_processes(self) -> bool:
        return bool(self._running or self._launching or self._doubtful or self.errands.any)

    @property
    def is_busy(self) -> bool:
        """Whether any job is in our hands, or anything else runs."""
        return self.has_processes or self.is_troubled

    @property
    def is_troubled(self) -> bool:
        """Whether this node can take no more jobs now."""
        return bool(self._unstarted or self._unrecorded)

    @property
    def is_sick(self) -> bool:
        """Whether this node has not been able to start a job for a while."""
        return time.monotonic() > self._unstartable_since + START_TROUBLE_S

    def serves(self, served: Served) -> bool:
        """Whether any job of a workflow is in our hands."""
        return any(each is served for each, _ in self._of.values())

    def next_at(self) -> float:
        """When a turn is due even if nothing happens, by the monotonic clock."""
        limited = self._limits.next_at(self._running.values())
        return min(limited, self._retry_at, self._orphans_at, self.errands.next_at(), *self._doubtful.values())

    def turn(self) -> bool:
        """Take in what has been started and what has exited, try again what is due, and heed the limits.

        True when a job came to its end. Raises Fenced.
        """
        self._take_in()
        ended = self._reap()
        self._settle_doubts(time.monotonic())
        if ended:
            self._orphans_at = min(self._orphans_at, time.monotonic() + ORPHANS_S)
        if time.monotonic() >= self._orphans_at or not self._running:
            self._put_away_orphans()
        self._retry()
        self._limits.heed(self._running, time.monotonic())
        return self.errands.turn() or ended

    # -- starts ---------------------------------------------------------------------------------------------

    def start(self, served: Served, starter: Starter, job: Claimed) -> None:
        """t2 and t3 for a claimed job, unless it is unwanted.

        Raises Fenced; StorageError, and then the job is still claimed.
        """
        grant = self.slots.take(job.pick)
        try:
            unwanted = recording.obey_late_wish(served, job)
            started = None if unwanted else served.owner().start(job.filename, job.name, job.content)
        except StorageError:
            self.slots.free(grant)
            served.leftover.append(job.pick)
            raise
        if started is None:
            self.slots.free(grant)
            self._count(Given(None, Status.CANCELED) if unwanted else None)
            what = "is canceled by request" if unwanted else "was moved away"
            self._tell(f"job {job.content.job.name} {what} before it could start")
            return
        execution = starter.prepare(*started, job.content, grant)
        self._of[id(execution)] = (served, starter)
        self._launch(execution)

    def _launch(self, execution: Execution) -> None:
        _, starter = self._of[id(execution)]
        self._launching[id(execution)] = execution
        execution.oom_kills = self._oom.lately()
        self._spawner.start(execution, starter.order(execution))

    def _take_in(self) -> None:
        """Take in the processes that have been started since."""
        started, failed = self._book()
        for execution in started:
            self._launched(execution)
            ending = execution.ending or (None if self._is_spared(execution) else self._ending)
            if ending is not None:
                execution.end(ending, self.grace_s)
            if self._killing:
                execution.kill()
        for execution in failed:
            self._unstarted.append(execution)  # until something better is known of it
        for execution, error in failed.items():
            self._not_launched(execution, error)

    def _book(self) -> tuple[list[Execution], dict[Execution, Exception]]:
        """Note first of all what has been started: whatever goes wrong after that, it is known and can be killed."""
        started: list[Execution] = []
        failed: dict[Execution, Exception] = {}
        for execution, pid, error in self._spawner.outcomes():
            del self._launching[id(execution)]
            if error is not None:
                failed[execution] = error
                continue
            execution.pid = pid
            self._running[pid] = execution
            started.append(execution)
        return started, failed

    def _launched(self, execution: Execution) -> None:
        served, _ = self._of[id(execution)]
        self._unstartable_since = math.inf
        if len(self._running) == 1:
            self._lone = execution
        else:
            execution.is_alone = False
            if self._lone is not None:
                self._lone.is_alone = False
        self._limits.watch(execution, time.monotonic())
        served.owner().note(
            {
                "event": "start",
                "id": execution.name.id,
                "attempt": execution.name.attempt,
                "pid": execution.pid,
                "time": execution.started,
                "gpus": ",".join(execution.grant.devices) or None,
                "stdout": execution.outputs.stdout,
                "stderr": execution.outputs.stderr,
            }
        )

    def _not_launched(self, execution: Execution, error: Exception) -> None:
        """A node that cannot make processes or files now must not eat the queue: the job waits, or goes back where it
        came from. Only what is wrong with the job itself is its failure: its length, or a text that is none."""
        own_fault = isinstance(error, ValueError) or (isinstance(error, OSError) and error.errno == errno.E2BIG)
        if own_fault:
            self._unstarted.remove(execution)
            execution.could_not_start(f"could not be started: {error}")
            self._record(execution)
            return
        if not isinstance(error, OSError | StorageError):
            raise error
        self._complain(f"jobs cannot be started: {error}")
        self._unstartable_since = min(self._unstartable_since, time.monotonic())
        self._retry_at = min(self._retry_at, time.monotonic() + START_RETRY_S)
        if self.gives_back and execution.ending in (None, self._ending):
            self._unstarted.remove(execution)
            try:
                self._give_back(execution)
            except StorageError:
                self._unstarted.append(execution)
                raise

    # -- ends -----------------------------------------------------------------------------------------------

    def _reap(self) -> bool:
        """Record what has exited; True when anything had."""
        any_exited = False
        while True:
            try:
                exited = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return any_exited
            if exited is None:
                return any_exited
            any_exited = True
            execution = self._running.pop(exited.si_pid, None)
            if execution is not None:
                if not execution.collect(self._oom):
                    self._launch(execution)  # its recovery script is through
                elif execution.may_have_been_ended(among_others=self._in_allocation):
                    self._doubtful[execution] = time.monotonic() + DOUBT_S
                else:
                    self._record(execution)
            elif self.errands.exited(exited.si_pid):
                continue
            elif self._is_launched(exited.si_pid):
                continue  # it ended before we heard that it had begun
            else:
                self._orphans.forget(exited.si_pid)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(exited.si_pid, os.WNOHANG)

    def _is_launched(self, pid: int) -> bool:
        """Whether this child is a job of which we had not heard yet."""
        if self._launching:
            self._spawner.await_made()
            self._take_in()
        return pid in self._running

    def _settle_doubts(self, now: float) -> None:
        """Record what has ended by itself after all."""
        for execution in [each for each, until in self._doubtful.items() if now >= until or each.ending is not None]:
            del self._doubtful[execution]
            self._record(execution)

    def _put_away_orphans(self) -> None:
        """Kill what a job left that had changed its session. What hides whose it is may be that of a running job:
        it is killed when none runs."""
        if self._orphans_at == math.inf:
            return
        self._orphans_at = math.inf
        running = {*(execution.task for execution in self._under_way()), *self.errands.tasks()}
        found = self._orphans.find({*self._running, *self.errands.pids()})
        for task in found.tasks:
            if task not in running:
                processes.kill_marked(TASK_VARIABLE, task)
        if found.nameless and not running:
            self._orphans.end()

    def _record(self, execution: Execution) -> None:
        """f1 to f3, then what follows; the slot is free only after that."""
        served, _ = self._of[id(execution)]
        attempt = execution.attempt
        assert attempt is not None
        if execution.ending is not None and execution.ending.is_left:
            del self._of[id(execution)]
            self._tell(f"left: job {execution.job.name} (attempt {attempt.attempt}): {attempt.reason}; it is run again")
            return
        try:
            came = recording.record(served.owner(), execution, attempt)
        except StorageError as error:
            self._complain(f"results cannot be recorded yet: {error}")
            self._unrecorded.append(execution)
            self._retry_at = min(self._retry_at, time.monotonic() + RECORD_RETRY_S)
            return
        self._of.pop(id(execution))
        self.slots.free(execution.grant)
        self._count(came)
        self.streak.note(served.id, execution.name.id, attempt)
        with self._may_follow_later(served):
            for line in recording.follow(served, execution, attempt, came):
                self._tell(line)

    @contextlib.contextmanager
    def _may_follow_later(self, served: Served) -> Iterator[None]:
        """What follows from a result that is recorded is seen by the next full look, where the disk refuses it now."""
        try:
            yield
        except StorageError as error:
            self._complain(str(error))
            served.has_missed()

    def _count(self, came: Given | None) -> None:
        if came is not None and came.outcome is not None:
            self.recorded[came.outcome] = self.recorded.get(came.outcome, 0) + 1

    def _retry(self) -> None:
        """Try again what the disk or the process table refused."""
        if time.monotonic() < self._retry_at:
            return
        self._retry_at = math.inf
        unrecorded, self._unrecorded = self._unrecorded, []
        for execution in unrecorded:
            self._record(execution)
        unstarted, self._unstarted = self._unstarted, []
        for execution in unstarted:
            if execution.ending not in (None, self._ending):
                assert execution.ending is not None
                execution.could_not_start(execution.ending.reason)
                self._record(execution)
            elif self.gives_back:
                self._unstarted.append(execution)
            else:
                self._launch(execution)
        if self.gives_back:
            self._give_back_unstarted()
        if time.monotonic() > self._give_up_at:
            self._give_up()

    def _give_up(self) -> None:
        """Who must end leaves to a recovery what the disk would not take."""
        if self._unrecorded:
            self._tell(f"{len(self._unrecorded)} results could not be recorded; those jobs will be run again")
            self._unrecorded.clear()
        self._unstarted.clear()

    # -- endings --------------------------------------------------------------------------------------------

    def _under_way(self) -> list[Execution]:
        """The jobs that run, or are about to."""
        return [*self._running.values(), *self._launching.values()]

    def cancel(self, served: Served, wishes: Collection[Cause]) -> None:
        """End those jobs of a workflow whose attempts somebody wants canceled."""
        for execution in [*self._under_way(), *self._unstarted, *self._doubtful]:
            mine = self._of[id(execution)][0] is served
            if mine and Cause(execution.name.id, execution.name.attempt) in wishes:
                execution.end(Ending(Status.CANCELED, "canceled by request"), self.grace_s)

    def end_all(self, reason: str, *, spare: bool = False, leave: bool = False) -> None:
        """Give every job its notice; those without a process go back to ready.

        `spare`: only those that support termination; the others run on until this is called without it.
        `leave`: record nothing of those that end because of this, for a recovery has them run again.
        """
        self._ending = Ending(Status.TERMINATED, reason, cause=causes.RUNNER_ENDED, is_left=leave)
        self._sparing = spare
        self.gives_back = True
        self._give_up_at = time.monotonic() + self.grace_s + 2 * RECORD_RETRY_S
        for execution in [*self._under_way(), *([] if spare else self._doubtful)]:
            if not self._is_spared(execution):
                execution.end(self._ending, self.grace_s)
        self.errands.end_all(self.grace_s)
        self._give_back_unstarted()

    def _is_spared(self, execution: Execution) -> bool:
        return self._sparing and not execution.job.supports_termination

    def kill_all(self) -> None:
        """SIGKILL for every job, at once."""
        self._killing = True
        self.errands.kill_all()
        for execution in self._under_way():
            execution.kill()

    def _give_back_unstarted(self) -> None:
        """Those jobs that could not be started go back to ready, as soon as the disk takes that. Raises Fenced."""
        while self._unstarted:
            try:
                self._give_back(self._unstarted[-1])
            except StorageError as error:
                self._complain(f"jobs cannot be given back yet: {error}")
                self._retry_at = min(self._retry_at, time.monotonic() + RECORD_RETRY_S)
                return
            self._unstarted.pop()

    def _give_back(self, execution: Execution) -> None:
        served, _ = self._of[id(execution)]
        given = served.owner().give_back(execution.filename, execution.name, execution.job)
        del self._of[id(execution)]
        self.slots.free(execution.grant)
        self._count(given)
        if given is not None and given.outcome is not None:  # a node that could not start it shall not claim it again
            with self._may_follow_later(served):
                recording.follow_given(served, execution, given)

    def abandon(self) -> None:
        """Kill everything and record nothing: others hold our work, or we cannot go on."""
        self._spawner.stop()
        self._spawner.await_made()
        self._book()
        self._launching.clear()
        self.kill_all()
        self.errands.abandon()
        for execution in self._running.values():
            processes.kill_marked(TASK_VARIABLE, execution.task)
        for left in (self._running, self._unstarted, self._unrecorded, self._doubtful):
            left.clear()

    def close(self) -> None:
        """End the threads that start processes, and what jobs may have left."""
        self._spawner.close()
        self._oom.close()
        self.errands.close()
        self._orphans.end()
