"""The runner: claims, starts, watches and records jobs until there is nothing that it may or can run.

One thread decides. It sleeps until a child exits, a signal or a file event comes, or a timer is due. See
`docs/spool-format.md` for the steps that it takes in the spool.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
import time
from collections.abc import Callable, Iterator

from torc_spool import actor as actors
from torc_spool import (
    doctor,
    errors,
    evidence,
    fsops,
    lease,
    naming,
    processes,
    recovery,
    sickhosts,
    submission,
    userdata,
)
from torc_spool.errors import Fenced, NotFound, StorageError, TorcSpoolError
from torc_spool.executor import START_TROUBLE_S, Executor
from torc_spool.model import Status
from torc_spool.options import WALLTIME_END, Stage
from torc_spool.options import Options as Options
from torc_spool.options import Result as Result
from torc_spool.pace import Pace
from torc_spool.performers import Performers
from torc_spool.performing import Performer
from torc_spool.served import Left, Served, serve_directories
from torc_spool.slots import Slots
from torc_spool.spool import Spool
from torc_spool.starter import Starter
from torc_spool.streak import SICK_AFTER, Streak, Verdict
from torc_spool.wakeup import NOTICE, Wakeup

TROUBLES = 3  # so many times an idle runner tries again what the filesystem refuses
TROUBLE_PAUSE_S = 5.0
COMPLAINT_S = 60.0
WALLTIME_ABOUT_S = 60.0  # Slurm's clock strikes every half a minute
LAST_S = 10.0  # before the end of the allocation all is over: what is recorded then takes its time
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
    ) -> None:
        output = None if options.output_dir is None else naming.storable(os.path.abspath(options.output_dir))
        self.spool, self.options, self.workflow_id = spool, options._replace(output_dir=output), workflow_id
        self._tell, self._progress = tell, progress
        self.name = actors.new_name()
        self._told = doctor.settings(spool.path, user=os.geteuid()) if fsops.is_network(spool.path) else None
        if self._told is not None and options.lease_s == lease.DEFAULT_S:
            self.options = self.options._replace(lease_s=self._told.lease_s)
        self.slots = Slots(options.capacity, max_parallel_jobs=options.max_parallel_jobs)
        self._in_allocation = evidence.life()["slurm_node"] is not None
        self.executor = Executor(
            self.slots,
            grace_s=options.grace_s,
            limit_resources=options.limit_resources,
            in_allocation=self._in_allocation,
            tell=tell,
            complain=self._complain,
            wake=self._wake,
        )
        most = SICK_AFTER if options.sick_after is None else options.sick_after
        self.executor.streak = Streak(most, options.sick_within_s)
        self.actions = Performers()
        self.served: dict[int, Served] = {}
        self._starters: dict[int, Starter] = {}
        self._skipped: dict[str, str] = {}  # workflows that cannot be served, and why
        self._closed: list[tuple[int, int]] = []  # (workflow, exit code) of those that are done with
        self._left: list[tuple[int, Left]] = []
        self._set_aside: list[str] = []
        self._stage = Stage.CLAIMING
        self._signals: list[int] = []
        self._fenced = self._leaving = False
        self._ends_at: float | None = None
        self._walltime_at = -math.inf  # when Slurm ends everything, where that is known
        self._spared_until = math.inf  # when those have their notice that were spared at the end
        self._idle_since: float | None = None
        self._heartbeat_s = lease.heartbeat_s(self.options.lease_s)
        self._beat_at = 0.0
        self._pace = Pace(1.0)
        self._slowest = LOCAL_POLL_S
        if fsops.is_network(spool.path):
            self._slowest = NETWORK_POLL_S if self._told is None else self._told.poll_s
        self._wakeup: Wakeup | None = None
        self._troubles = 0  # turns in a row that the filesystem cut short
        self._hold_off = -math.inf  # no claims before
        self._complained: dict[str, float] = {}
        self._sick_shown: set[str] = set()  # whose notes of sick hosts have been told

    # -- the loop -------------------------------------------------------------------------------------------

    def run(self) -> Result:
        """Until there is nothing more to do. Raises NotFound, UntrustedSpool, StorageError before the first claim."""
        processes.set_subreaper()
        processes.close_on_exec_from(3)
        self._open_workflows(first=True)
        with Wakeup(self._signals.append) as wakeup:
            self._wakeup = wakeup
            try:
                self._begin()
                while self._step():
                    wakeup.wait(self._timeout())
            finally:
                self._abandon()
        return Result(self._exit_code(), self._left, self._set_aside, self.executor.recorded)

    def _begin(self) -> None:
        now = time.monotonic()
        self._beat_at = now + random.uniform(0.5, 1.0) * self._heartbeat_s  # many who begin at once shall not beat so
        if self.options.time_limit_s is not None:
            self._ends_at = now + self.options.time_limit_s
        if self.options.walltime_s is not None:
            self._walltime_at = now + self.options.walltime_s
        for served in list(self.served.values()):
            self._first_look(served)

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
            if self.executor.streak.is_long and self._stage is Stage.CLAIMING:
                self._look_into_failures()
            if self._stage is Stage.CLAIMING and time.monotonic() >= self._hold_off:
                self._take_in_changes(changed)
                self._fill()
            self._progress(self)
            if self._stage is Stage.CLAIMING and not self.executor.is_busy and time.monotonic() >= self._hold_off:
                go_on = self._idle()
                self._troubles = 0
                return go_on
            if self._stage in (Stage.FINISHING, Stage.ENDING) and not self.executor.is_busy:
                self.actions.leave(stopped=self._stage is Stage.ENDING, within_s=self.options.grace_s)
        except Fenced as fenced:
            self._be_fenced(fenced)
        except StorageError as error:
            self._be_troubled(error)
        if self.executor.is_busy:
            self._idle_since, self._troubles = None, 0
            if self._pace.due():
                self._watch_or_wait(self._slowest)
            return self._stage is not Stage.KILLING or self.executor.has_processes
        return self._stage is Stage.CLAIMING

    def _look_into_failures(self) -> None:
        """Different jobs fail here at once, one after the other: is it this host?"""
        streak = self.executor.streak
        at_fault = {failed.workflow for failed in streak.failed}
        for served in [served for served in self.served.values() if served.id in at_fault]:
            record = served.owner().record
            verdict, said = sickhosts.judge(
                served.store, record, streak, is_asked_for=self.options.sick_after is not None
            )
            if verdict is Verdict.SICK:
                self._stage = Stage.FINISHING
                given = sickhosts.note(served.store, record, streak)
                served.has_missed()
                said += f"; given back to others: {', '.join(given) or 'none'}"
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
        self._hold_off = time.monotonic() + TROUBLE_PAUSE_S

    def _complain(self, text: str) -> None:
        """Say what is wrong, but not over and over."""
        now = time.monotonic()
        if now >= self._complained.get(text, -math.inf) + COMPLAINT_S:
            self._complained[text] = now
            self._tell(f"{text}; trying again")

    def _timeout(self) -> float:
        now = time.monotonic()
        at = min(
            self._beat_at,
            self._pace.at,
            self._hold_off if self._hold_off > now else math.inf,
            self.executor.next_at(),
            self._notice_at(),
            self._spared_until,
        )
        if self._idle_since is not None and self.options.wait_for_new_jobs_s:
            at = min(at, self._idle_since + self.options.wait_for_new_jobs_s)
        return max(0.0, min(at - now, 3600.0))

    def _wake(self) -> None:
        if self._wakeup is not None:
            self._wakeup.poke()

    # -- workflows ------------------------------------------------------------------------------------------

    def _open_workflows(self, *, first: bool = False) -> bool:
        """Serve the workflow that was named, or all that are there and not yet served. True when one is new."""
        new = False
        if self.workflow_id is not None:
            if first:
                self._serve(self.workflow_id)
            return first
        done = {workflow for workflow, _ in self._closed}
        if first and self.options.wait_for_new_jobs_s:
            # a runner that waits for jobs may be there before the first submit
            submission.prepare_root(self.spool.path, shared=self.spool.allow_shared)
        for found in self.spool.workflows():
            if found.id in self.served or found.id in done or found.root in self._skipped:
                continue
            try:
                served = self._serve(found.id)
            except NotFound:
                continue  # deleted meanwhile, or not of our scheduler
            except TorcSpoolError as error:
                self._skipped[found.root] = str(error)
                self._tell(f"workflow {found.id} is not served: {error}")
                continue
            new = True
            if not first:
                self._first_look(served)
        return new

    def _serve(self, workflow_id: int) -> Served:
        store = self.spool.open_to_change(workflow_id)
        options, capacity = self.options, self.options.capacity
        directories = serve_directories(store, options.scheduler, options.any_scheduler)
        record = actors.identity(
            self.name,
            lease_s=options.lease_s,
            scheduler=options.scheduler,
            any_scheduler=options.any_scheduler,
            **evidence.life(),
            max_parallel_jobs=options.max_parallel_jobs,
            num_cpus=capacity.num_cpus,
            num_gpus=len(capacity.gpus),
            num_nodes=capacity.num_nodes,
            memory_mib=capacity.memory_mib,
        )
        served = Served(store, record, directories=directories, calls_per_s=options.calls_per_s)
        if self._told is not None and not self._told.lock:
            served.lock.forgo()
        output = options.output_dir or store.workflow.output_dir or store.layout.output
        output = os.path.abspath(output)
        if output != store.layout.output:
            fsops.make_output_directory(output)
        self._starters[workflow_id] = Starter(
            store.workflow,
            user_data=userdata.paths(store),
            runner=self.name,
            output_dir=output,
            environ=os.environ,
            spool=self.spool.path,
            gpu_variable=None if options.max_parallel_jobs is not None else capacity.gpu_variable,
        )
        if store.workflow.num_actions:
            performer = Performer(
                served,
                self.executor.errands,
                output_dir=output,
                spool=self.spool.path,
                environ=os.environ,
                tell=self._tell,
                has_jobs=lambda: self.executor.serves(served),
            )
            self.actions.add(workflow_id, performer)
        self.served[workflow_id] = served
        return served

    def _serve_anew(self, served: Served) -> Served:
        """Open a workflow again whose jobs have been defined anew; we hold nothing in it."""
        self.actions.remove(served.id)
        self._starters.pop(served.id).close()
        served.close(None)
        return self._serve(served.id)

    def _leave(self, served: Served, exit_code: int) -> None:
        self._set_aside += served.set_aside
        self._closed.append((served.id, exit_code))
        self.served.pop(served.id)
        self.actions.remove(served.id)
        self._starters.pop(served.id).close()
        served.close(exit_code)

    # -- claims ---------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Claim and start what fits. Older workflows first; within one, its own order."""
        if self.executor.is_troubled:
            return  # this node can take no more now
        for served in list(self.served.values()):
            if served.is_outdated:
                served = self._serve_anew(served)
            if not self.actions.may_claim(served.id):
                continue
            jobs = served.claim(self.slots.offer(self._seconds_left()))
            while jobs:
                try:
                    self.executor.start(served, self._starters[served.id], jobs.pop(0))
                except StorageError:
                    served.leftover += [job.pick for job in jobs]
                    raise

    def _seconds_left(self) -> float | None:
        """In whole seconds, rounded up: a job of two hours fits in a limit of two hours."""
        return None if self._ends_at is None else math.ceil(self._ends_at - time.monotonic())

    # -- timers ---------------------------------------------------------------------------------------------

    def _timers(self) -> None:
        now = time.monotonic()
        if now >= self._beat_at or any(each.actor and each.actor.lease.lapsed for each in self.served.values()):
            self._beat_at = now + TROUBLE_PAUSE_S  # if the filesystem refuses it
            self._beat_all()
            self._beat_at = now + random.uniform(0.9, 1.0) * self._heartbeat_s
            for served in list(self.served.values()):
                if self._stage is Stage.CLAIMING and served.actor is not None and not served.finished:
                    served.recover(silent_s=SILENT_S)  # others may have died while we are busy
                    self._show_sick(served)
        if self.executor.is_sick and self._stage is Stage.CLAIMING:
            self._stage = Stage.FINISHING
            self._tell(f"this node could start no job for {START_TROUBLE_S:g} s: claiming nothing more")
        if self._stage is Stage.FINISHING:
            self.executor.gives_back = True
        if now >= self._notice_at() and self._stage in (Stage.CLAIMING, Stage.FINISHING):
            self._end_jobs(self.options.end_reason)
        if now >= self._spared_until and self._stage is Stage.ENDING:
            self._spared_until = math.inf
            self.executor.end_all(WALLTIME_END)

    def _notice_at(self) -> float:
        """When jobs get their notice: a grace before the end of time, but at most a tenth of it."""
        if self._ends_at is None or self._stage in (Stage.ENDING, Stage.KILLING):
            return math.inf
        return self._ends_at - min(self.options.grace_s, 0.1 * (self.options.time_limit_s or 0.0))

    # -- wishes and signals ---------------------------------------------------------------------------------

    def _obey(self, changed: set[str]) -> None:
        """Look at the requests when an event or the pace says so."""
        for served in list(self.served.values()):
            polled = self._pace.due() and (not served.finished or len(self.served) == 1)
            if polled or served.store.layout.requests in changed:
                self._obey_in(served)

    def _obey_in(self, served: Served) -> None:
        cancels, stop = served.wishes()
        if cancels:
            self.executor.cancel(served, cancels)
        if stop and self._stage is Stage.CLAIMING:
            self._stage = Stage.FINISHING
            self._tell("asked to stop: finishing what runs, claiming nothing more")
            served.obeyed(naming.Request(runner=self.name))

    def _heed_signals(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if self._stage in (Stage.CLAIMING, Stage.FINISHING):
                self._obey_last_wishes()
            if number == NOTICE:
                if self._stage in (Stage.CLAIMING, Stage.FINISHING):
                    self._tell("SIGUSR1: the walltime is about to end; jobs have their notice")
                    self._end_jobs(WALLTIME_END)
                continue
            name = signal.Signals(number).name
            if self._stage in (Stage.CLAIMING, Stage.FINISHING) or self._spared_until < math.inf:
                self._tell(f"{name}: jobs have {self.options.grace_s:g} s to end; once more to end at once")
                self._be_stopped(number, name)
            else:
                self._stage = Stage.KILLING
                self.executor.kill_all()

    def _be_stopped(self, number: int, name: str) -> None:
        """With SIGTERM Slurm ends an allocation: at the walltime, or because somebody took it away."""
        self._spared_until = math.inf
        if number != signal.SIGTERM or not self._in_allocation:
            self._stop_jobs(f"the runner was stopped by {name}")
        elif abs(self._walltime_at - time.monotonic()) < WALLTIME_ABOUT_S:
            self._stop_jobs(WALLTIME_END)
        else:
            self._stop_jobs("its allocation was stopped", leave=True)

    def _stop_jobs(self, reason: str, *, leave: bool = False) -> None:
        self._stage = Stage.ENDING
        self.executor.end_all(reason, leave=leave)

    def _obey_last_wishes(self) -> None:
        """Who cancels a workflow cancels its allocations too: its jobs end as canceled."""
        for served in self.served.values():
            with contextlib.suppress(StorageError):
                self.executor.cancel(served, served.wishes()[0])

    def _end_jobs(self, reason: str) -> None:
        """Claim nothing more, and give every job its notice. At the end of the walltime those that do not support
        termination run on as long as they can: perhaps they come to their end."""
        self._stage = Stage.ENDING
        last = self._walltime_at - self.options.grace_s - LAST_S
        is_spare = reason == WALLTIME_END and time.monotonic() < last
        self._spared_until = last if is_spare else math.inf
        self.executor.end_all(reason, spare=is_spare)

    def _be_fenced(self, fenced: Fenced) -> None:
        """Others hold our work: kill it, record nothing, and say why."""
        self._fenced = True
        self._stage = Stage.KILLING
        self.executor.abandon()
        self._tell(f"{fenced}{self._why_fenced()}")

    def _why_fenced(self) -> str:
        with contextlib.suppress(StorageError):
            for served in self.served.values():
                why = recovery.why_taken(served.store, self.name)
                if why is not None:
                    return f"; {why}"
        return ""

    # -- idleness -------------------------------------------------------------------------------------------

    def _take_in_changes(self, changed: set[str]) -> None:
        """Take in what events and the pace say."""
        if self._pace.due() or self.spool.path in changed:
            self._open_workflows()
        for served in self.served.values():
            served.stale = served.stale or any(path.startswith(served.store.layout.root) for path in changed)
            served.settle_if_due()
        self.actions.heed(changed)
        if changed:
            self._pace.hurry()

    def _idle(self) -> bool:
        """Nothing runs here and nothing was claimed. True to wait on, False when the runner is through."""
        assert self._wakeup is not None
        for served in list(self.served.values()):
            if self._look_again(served):
                self._pace.now()
                return True
        waiting = self._worth_waiting()
        now = time.monotonic()
        self._idle_since = now if self._idle_since is None else self._idle_since
        is_over = not waiting and now >= self._idle_since + self.options.wait_for_new_jobs_s
        if is_over or self._leaving:
            self._leaving = True
            if self.actions.leave(stopped=False, within_s=0.0):
                return True
            for served in list(self.served.values()):
                self._conclude(served)
            return False
        self._watch_or_wait(AWAIT_POLL_S if waiting else self._slowest)
        return True

    def _watch_or_wait(self, longest: float) -> None:
        """Nothing has happened for a while: from now on events are to tell when something does, and we look rarely."""
        assert self._wakeup is not None
        directories = [path for served in self.served.values() for path in served.watched()]
        directories += self.actions.watched()
        if self.workflow_id is None:
            directories.append(self.spool.path)
        if self._wakeup.watch(directories):
            self._pace.now()  # something may have come before the watch was there
            for served in self.served.values():
                served.stale = True
        else:
            self._pace.least = sum(served.least_pause_s() for served in self.served.values())
            self._pace.slower(longest)

    def _look_again(self, served: Served) -> bool:
        """Settle, take back from the dead, and look at the ready jobs; True when there may be something to claim."""
        if served.finished:
            served.look()  # only a retry can make work, and it makes it ready
            return self._has_fitting(served) or self.actions.look(served.id)
        if not served.store.exists():
            self._leave_deleted(served)
            return False
        if served.recover():
            return True
        if served.settle():
            return True
        served.look()
        if self._has_fitting(served):
            return True
        served.outcomes()
        return self.actions.look(served.id)

    def _has_fitting(self, served: Served) -> bool:
        """Whether there is a job to claim, and nothing that comes before it."""
        if self.actions.hold_back(served.id):
            return False
        return served.has_fitting(self.slots.offer(self._seconds_left()))

    def _beat_all(self) -> None:
        """A sign of life in every workflow, also where one of them refuses it. Raises Fenced, StorageError."""
        refused: StorageError | None = None
        for served in list(self.served.values()):
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
            self._leave_deleted(served)

    def _leave_deleted(self, served: Served) -> None:
        self._tell(f"workflow {served.id} was deleted")
        self._leave(served, self._code_of_deleted())

    def _code_of_deleted(self) -> int:
        """Who serves all workflows has nothing left to do in one that is gone."""
        return errors.EXIT_OK if self.workflow_id is None else errors.EXIT_STOPPED

    def _worth_waiting(self) -> bool:
        offer = self.slots.offer(self._seconds_left())
        return self.actions.any_waits or any(
            not served.finished and served.prospects.may_follow(offer, served.actor) for served in self.served.values()
        )

    def _conclude(self, served: Served) -> None:
        """Leave one workflow with its exit code, and with what is left of it."""
        outcomes = served.outcomes()
        if len(outcomes) >= served.store.workflow.num_jobs:
            served.sweep_requests()
            completed = all(outcome is Status.COMPLETED for outcome in outcomes.values())
            self._leave(served, errors.EXIT_OK if completed else errors.EXIT_JOBS_FAILED)
        elif not served.store.exists():
            self._leave_deleted(served)
        else:
            left = served.prospects.left(self.slots.offer(self._seconds_left()), served.actor)
            self._left += [(served.id, each) for each in left]
            is_well = self.options.leave_to_others and all(each.is_others for each in left)
            self._leave(served, errors.EXIT_OK if is_well else errors.EXIT_JOBS_LEFT)

    # -- the end --------------------------------------------------------------------------------------------

    def _abandon(self) -> None:
        """Leave every workflow; what could not be recorded stays where a recovery finds it."""
        if self.executor.has_processes:
            self.executor.abandon()
        self.executor.close()
        processes.kill_marked(recovery.RUNNER_VARIABLE, self.name)
        for served in list(self.served.values()):
            code = self._stopped_code(served)
            self._set_aside += served.set_aside
            self._closed.append((served.id, code))
            self._starters.pop(served.id).close()
            self.actions.remove(served.id)
            with contextlib.suppress(StorageError):
                served.close(code, retire=not self._fenced)
        self.served.clear()

    def _stopped_code(self, served: Served) -> int:
        """Stopped with work left is 4; stopped when all was done anyway is not."""
        try:
            outcomes = served.outcomes()
        except StorageError:
            return errors.EXIT_STOPPED
        if len(outcomes) < served.store.workflow.num_jobs:
            deleted = self.workflow_id is None and not served.store.exists()
            return errors.EXIT_OK if deleted else errors.EXIT_STOPPED
        if all(outcome is Status.COMPLETED for outcome in outcomes.values()):
            return errors.EXIT_OK
        # jobs that this runner's own end terminated are work that is left
        ended = self._stage in (Stage.ENDING, Stage.KILLING) and Status.TERMINATED in self.executor.recorded
        return errors.EXIT_STOPPED if ended else errors.EXIT_JOBS_FAILED

    def _exit_code(self) -> int:
        """Of several workflows the worst: stopped, jobs left, jobs failed, all completed."""
        codes = [code for _, code in self._closed]
        if self._fenced:
            codes.append(errors.EXIT_STOPPED)
        if self._skipped:
            codes.append(errors.EXIT_JOBS_LEFT)
        return max(codes, default=errors.EXIT_OK)

    def counts(self) -> Iterator[tuple[str, int]]:
        """What this runner has done so far, for a progress line."""
        yield "running", self.executor.num_running
        yield from ((str(outcome), count) for outcome, count in self.executor.recorded.items())
