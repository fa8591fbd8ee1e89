"""The runner: claims, starts, watches and records jobs until there is nothing that it may or can run.

One thread decides. It sleeps until a child exits, a signal or a file event comes, or a timer is due. See
`docs/spool-format.md` for the steps that it takes in the spool.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator

from torc_spool import actor as actors
from torc_spool import (
    children,
    doctor,
    evidence,
    lease,
    mounts,
    naming,
    processes,
    recovery,
    sickhosts,
)
from torc_spool.ending import Ending
from torc_spool.errors import Fenced, StorageError
from torc_spool.executor import Executor
from torc_spool.options import Options as Options
from torc_spool.options import Result as Result
from torc_spool.options import Stage
from torc_spool.pace import Pace
from torc_spool.refusals import Refusals
from torc_spool.served import Served
from torc_spool.serving import Serving
from torc_spool.slots import Slots
from torc_spool.spool import Spool
from torc_spool.streak import SICK_AFTER, Streak, Verdict
from torc_spool.wakeup import Wakeup

TROUBLES = 3  # so many times an idle runner tries again what the filesystem refuses
TROUBLE_PAUSE_S = 5.0
LOCAL_POLL_S = 60.0  # file events tell of most things
NETWORK_POLL_S = 30.0  # they do not cross hosts
SILENT_S = 90.0  # a busy runner asks Slurm only about those that have missed a heartbeat
AWAIT_POLL_S = 5.0  # while others run what may release something: no event tells of their death, or of a failure


class Runner:
    """Runs one workflow, or with `workflow_id` None every workflow of the spool. Call `run` once."""

    def __init__(
        self,
        spool: Spool,
        options: Options,
        *,
        workflow_id: int | None = None,
        tell: Callable[[str], None] = lambda _line: None,
        progress: Callable[[Runner], None] = lambda _runner: None,
        begun: Callable[[], None] = lambda: None,
    ) -> None:
        output = None if options.output_dir is None else naming.storable(os.path.abspath(options.output_dir))
        self.spool, self.options, self.workflow_id = spool, options._replace(output_dir=output), workflow_id
        self._tell, self._progress, self._begun = tell, progress, begun
        self._complain = Refusals(tell).tell
        self.name = actors.new_name()
        self._told = doctor.settings(spool.path, user=os.geteuid()) if mounts.is_network(spool.path) else None
        if self._told is not None and options.lease_s == lease.DEFAULT_S:
            self.options = self.options._replace(lease_s=self._told.lease_s)
        self.slots = Slots(options.capacity, max_parallel_jobs=options.max_parallel_jobs)
        in_allocation = evidence.life()["slurm_node"] is not None
        self.executor = Executor(
            self.slots,
            grace_s=options.grace_s,
            limit_resources=options.limit_resources,
            in_allocation=in_allocation,
            tell=tell,
            complain=self._complain,
            wake=self._wake,
        )
        most = SICK_AFTER if options.sick_after is None else options.sick_after
        self.executor.streak = Streak(most, options.sick_within_s)
        self.ending = Ending(self.options, self.executor, in_allocation=in_allocation, tell=tell)
        self.served = Serving(
            spool,
            self.options,
            self.executor,
            runner=self.name,
            told=self._told,
            is_for_all=workflow_id is None,
            tell=tell,
        )
        self._signals: list[int] = []
        self._fenced = self._leaving = False
        self._is_new = True  # whether it has had no job yet, and has not looked again
        self._is_told = False  # whether it has come to its end by what all others learn as well
        self._has_let_go = False  # whether it has let others end before it then
        self._idle_since: float | None = None
        self._heartbeat_s = lease.heartbeat_s(self.options.lease_s)
        self._beat_at = 0.0
        self._pace = Pace(1.0)
        self._slowest = LOCAL_POLL_S
        if mounts.is_network(spool.path):
            self._slowest = NETWORK_POLL_S if self._told is None else self._told.poll_s
        self._wakeup: Wakeup | None = None
        self._troubles = 0  # turns in a row that the filesystem cut short
        self._sick_shown: set[str] = set()  # whose notes of sick hosts have been told

    # -- the loop -------------------------------------------------------------------------------------------

    def run(self) -> Result:
        """Until there is nothing more to do. Raises NotFound, UntrustedSpool, StorageError before the first claim."""
        children.set_subreaper()
        children.close_on_exec_from(3)
        self._open_workflows()
        with Wakeup(self._signals.append) as wakeup:
            self._wakeup = wakeup
            try:
                self._begin()
                while self._step():
                    self._begun()
                    wakeup.wait(self._timeout())
            finally:
                self._abandon()
        return Result(
            self.served.exit_code(fenced=self._fenced), self.served.left, self.served.set_aside, self.executor.recorded
        )

    def _begin(self) -> None:
        now = time.monotonic()
        self._beat_at = now + random.uniform(0.5, 1.0) * self._heartbeat_s  # many who begin at once shall not beat so
        self.ending.begin()
        try:
            for served in self.served:
                self._first_look(served)
        except Fenced as fenced:  # declared dead before it had begun
            self._be_fenced(fenced)

    def _first_look(self, served: Served) -> None:
        if self.workflow_id is not None:
            served.owner()
        served.outcomes()
        if not served.finished:
            served.recover(silent_s=SILENT_S)
            served.settle()
            self._show_sick(served)

    def _step(self) -> bool:
        """One turn; False when the runner is through."""
        assert self._wakeup is not None
        changed = self._wakeup.changes()
        try:
            self._heed_signals()
            if self.executor.turn():
                self._pace.hurry()
            self._timers()
            self._obey(changed)
            if self.executor.streak.is_long and self.ending.is_claiming:
                self._look_into_failures()
            if self.ending.is_claiming and self._pace.is_open:
                self._take_in_changes(changed)
                self._fill()
            self._progress(self)
            if self.ending.is_claiming and not self.executor.is_busy and self._pace.is_open:
                go_on = self._idle()
                self._troubles = 0
                return go_on
            if self.ending.stage in (Stage.FINISHING, Stage.ENDING) and not self.executor.is_busy:
                self.served.actions.leave(stopped=self.ending.stage is Stage.ENDING, within_s=self.options.grace_s)
        except Fenced as fenced:
            self._be_fenced(fenced)
        except StorageError as error:
            self._be_troubled(error)
        if self.executor.is_busy:
            self._idle_since, self._troubles, self._is_new = None, 0, False
            if self._pace.due():
                self._watch_or_wait(self._slowest)
            return self.ending.stage is not Stage.KILLING or self.executor.has_processes
        return self.ending.is_claiming

    def _look_into_failures(self) -> None:
        """Different jobs fail here at once, one after the other: is it this host?"""
        streak = self.executor.streak
        at_fault = {failed.workflow for failed in streak.failed}
        for served in [served for served in self.served if served.id in at_fault]:
            record = served.owner().record
            verdict, said = sickhosts.judge(
                served.store, record, streak, is_asked_for=self.options.sick_after is not None
            )
            if verdict is Verdict.SICK:
                self.ending.finish()
                given = sickhosts.note(served.store, record, streak)
                served.has_missed()
                said += f"; given back to others: {', '.join(given) or 'none'}"
            if said:
                self._tell(said)

    def _show_sick(self, served: Served) -> None:
        for note in sickhosts.notes(served.store):
            if note.runner not in self._sick_shown and note.runner != self.name:
                self._sick_shown.add(note.runner)
                self._tell(f"host {note.host} is noted as sick by runner {note.runner}: {note.reason}")

    def _be_troubled(self, error: StorageError) -> None:
        """The filesystem refuses a call. What runs goes on, and it is tried again; an idle runner soon gives up."""
        self._complain(str(error))
        self._troubles += 1
        if self._troubles >= TROUBLES and not self.executor.is_busy:
            raise error
        self._pace.rest(TROUBLE_PAUSE_S)

    def _timeout(self) -> float:
        now = time.monotonic()
        at = min(self._beat_at, self._pace.next_at, self.executor.next_at(), self.ending.next_at())
        if self._pace.is_open and self._idle_since is not None and self.options.wait_for_new_jobs_s:
            at = min(at, self._idle_since + self.options.wait_for_new_jobs_s)
        return max(0.0, min(at - now, 3600.0))

    def _wake(self) -> None:
        if self._wakeup is not None:
            self._wakeup.poke()

    # -- workflows ------------------------------------------------------------------------------------------

    def _open_workflows(self) -> None:
        """Serve the workflow that was named, or all that are there."""
        if self.workflow_id is not None:
            self.served.open(self.workflow_id)
            return
        if self.options.wait_for_new_jobs_s:
            self.served.prepare()
        for _ in self.served.open_new():
            pass

    def _open_new_workflows(self) -> None:
        if self.workflow_id is None:
            for served in self.served.open_new():
                self._first_look(served)

    # -- claims ---------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Claim and start what fits. Older workflows first; within one, its own order."""
        if self.executor.is_troubled:
            return  # this node can take no more now
        for served in self.served:
            if served.is_outdated:
                served = self.served.open_again(served)
            if not self.served.actions.may_claim(served.id):
                continue
            jobs = served.claim(self.slots.offer(self.ending.seconds_left()))
            for why in served.unread.values():
                self._complain(why)
            while jobs:
                try:
                    self.executor.start(served, self.served.starter(served), jobs.pop(0))
                except StorageError:
                    served.leftover += [job.pick for job in jobs]
                    raise

    # -- timers ---------------------------------------------------------------------------------------------

    def _timers(self) -> None:
        now = time.monotonic()
        if now >= self._beat_at or any(each.actor and each.actor.lease.lapsed for each in self.served):
            self._beat_at = now + TROUBLE_PAUSE_S  # if the filesystem refuses it
            self._beat_all()
            self._beat_at = now + random.uniform(0.9, 1.0) * self._heartbeat_s
            for served in self.served:
                if self.ending.is_claiming and served.actor is not None and not served.finished:
                    served.recover(silent_s=SILENT_S)  # others may have died while we are busy
                    self._show_sick(served)
        self.ending.keep_time()

    # -- wishes and signals ---------------------------------------------------------------------------------

    def _obey(self, changed: set[str]) -> None:
        """Look at the requests when an event or the pace says so."""
        for served in self.served:
            polled = self._pace.due() and (not served.finished or len(self.served) == 1)
            if polled or served.store.layout.requests in changed:
                self._obey_in(served)

    def _obey_in(self, served: Served) -> None:
        cancels, stop = served.wishes()
        if cancels:
            self._is_told = True
            self.executor.cancel(served, cancels)
        if stop and self.ending.is_claiming:
            self.ending.finish("asked to stop: finishing what runs, claiming nothing more")
            served.obeyed(naming.Request(runner=self.name))

    def _heed_signals(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if self.ending.is_open:
                self._obey_last_wishes()
            self.ending.heed(number)

    def _obey_last_wishes(self) -> None:
        """Who cancels a workflow cancels its allocations too: its jobs end as canceled."""
        for served in self.served:
            with contextlib.suppress(StorageError):
                self.executor.cancel(served, served.wishes()[0])

    def _be_fenced(self, fenced: Fenced) -> None:
        """Others hold our work: kill it, record nothing, and say why."""
        self._fenced = True
        self.ending.kill()
        self.executor.abandon()
        self._tell(f"{fenced}{self._why_fenced()}")

    def _why_fenced(self) -> str:
        with contextlib.suppress(StorageError):
            for served in self.served:
                why = recovery.why_taken(served.store, self.name)
                if why is not None:
                    return f"; {why}"
        return ""

    # -- idleness -------------------------------------------------------------------------------------------

    def _take_in_changes(self, changed: set[str]) -> None:
        """Take in what events and the pace say."""
        if self._pace.due() or self.spool.path in changed:
            self._open_new_workflows()
        for served in self.served:
            served.stale = served.stale or any(path.startswith(served.store.layout.root) for path in changed)
            served.settle_if_due()
        self.served.actions.heed(changed)
        if changed:
            self._pace.hurry()

    def _idle(self) -> bool:
        """Nothing runs here and nothing was claimed. True to wait on, False when the runner is through."""
        assert self._wakeup is not None
        if self._is_new:  # in a crowd it need not see at once again what it has just seen
            self._is_new = False
            if self._pace.rest(self.served.least_pause_s()):
                return True
        for served in self.served:
            if self._look_again(served):
                self._pace.now()
                return True
        waiting = self._worth_waiting()
        now = time.monotonic()
        self._idle_since = now if self._idle_since is None else self._idle_since
        is_over = not waiting and now >= self._idle_since + self.options.wait_for_new_jobs_s
        if is_over and self._is_told and not self._has_let_go:
            self._has_let_go = True
            if self._pace.rest(self.served.leaving_s()):
                return True
        if is_over or self._leaving:
            self._leaving = True
            if self.served.actions.leave(stopped=False, within_s=0.0):
                return True
            for served in self.served:
                self.served.conclude(served, self.slots.offer(self.ending.seconds_left()))
            return False
        self._is_told, self._has_let_go = True, False
        self._watch_or_wait(AWAIT_POLL_S if waiting else self._slowest)
        return True

    def _watch_or_wait(self, longest: float) -> None:
        """Nothing has happened for a while: from now on events are to tell when something does, and we look rarely."""
        assert self._wakeup is not None
        directories = [path for served in self.served for path in served.watched()]
        directories += self.served.actions.watched()
        if self.workflow_id is None:
            directories.append(self.spool.path)
        self._pace.least = self.served.least_pause_s()
        if self._wakeup.watch(directories):
            self._pace.soon()  # something may have come before the watch was there
            for served in self.served:
                served.stale = True
        else:
            self._pace.slower(longest)

    def _look_again(self, served: Served) -> bool:
        """Settle, take back from the dead, and look at the ready jobs; True when there may be something to claim."""
        if served.finished:
            served.look()  # only a retry can make work, and it makes it ready
            return self._has_fitting(served) or self.served.actions.look(served.id)
        if not served.store.exists():
            self.served.leave_deleted(served)
            return False
        if served.recover():
            return True
        if served.settle():
            return True
        served.look()
        if self._has_fitting(served):
            return True
        served.outcomes()
        return self.served.actions.look(served.id)

    def _has_fitting(self, served: Served) -> bool:
        """Whether there is a job to claim, and nothing that comes before it."""
        if self.served.actions.hold_back(served.id):
            return False
        return served.has_fitting(self.slots.offer(self.ending.seconds_left()))

    def _beat_all(self) -> None:
        """A sign of life in every workflow, also where one of them refuses it. Raises Fenced, StorageError."""
        refused: StorageError | None = None
        for served in self.served:
            try:
                self._beat(served)
            except StorageError as error:
                refused = refused or error
        if refused is not None:
            raise refused

    def _beat(self, served: Served) -> None:
        """A sign of life. Raises Fenced, unless the workflow was deleted and nothing of it runs here."""
        if served.actor is None:
            return
        try:
            served.actor.beat()
        except Fenced:
            if served.store.exists() or self.executor.serves(served):
                raise
            self.served.leave_deleted(served)

    def _worth_waiting(self) -> bool:
        offer = self.slots.offer(self.ending.seconds_left())
        return self.served.actions.any_waits or any(
            not served.finished and served.prospects.may_follow(offer, served.actor) for served in self.served
        )

    # -- the end --------------------------------------------------------------------------------------------

    def _abandon(self) -> None:
        """Leave every workflow; what could not be recorded stays where a recovery finds it."""
        if self.executor.has_processes:
            self.executor.abandon()
        self.executor.close()
        processes.kill_marked(recovery.RUNNER_VARIABLE, self.name)
        ended = self.ending.stage in (Stage.ENDING, Stage.KILLING)
        self.served.abandon(ended=ended, retire=not self._fenced)

    def counts(self) -> Iterator[tuple[str, int]]:
        """What this runner has done so far, for a progress line."""
        yield "running", self.executor.num_running
        yield from ((str(outcome), count) for outcome, count in self.executor.recorded.items())
