"""The runner: claims, starts, watches and records jobs until there is nothing that it may or can run.

One thread decides. It sleeps until a child exits, a signal or a file event comes, or a timer is due. See
`docs/spool-format.md` for the steps that it takes in the spool.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from torc_spool import actor as actors
from torc_spool import errors, fsops, naming, processes, recovery, submission
from torc_spool.capacity import Capacity
from torc_spool.errors import Fenced, NotFound, StorageError, TorcSpoolError
from torc_spool.execution import TASK_VARIABLE, Ending, Execution, Starter, orphaned_tasks
from torc_spool.model import Status
from torc_spool.naming import Cause
from torc_spool.pace import Pace
from torc_spool.served import Claimed, Left, Served, serve_directories
from torc_spool.slots import Slots
from torc_spool.spawn import Spawner
from torc_spool.spool import Spool
from torc_spool.wakeup import Wakeup

MEMORY_SAMPLE_S = 1.0
RECORD_RETRY_S = 5.0
START_RETRY_S = 1.0
LOCAL_POLL_S = 60.0  # file events tell of most things
NETWORK_POLL_S = 30.0  # they do not cross hosts
_TRY_LATER = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)


class Options(NamedTuple):
    """How a runner is to run. Times in seconds."""

    capacity: Capacity
    max_parallel_jobs: int | None = None
    scheduler: str | None = None  # a name, or a number from 1 in the order of the spec
    any_scheduler: bool = False
    time_limit_s: float | None = None
    grace_s: float = 10.0
    limit_resources: bool = True
    output_dir: str | None = None
    wait_for_new_jobs_s: float = 0.0


class Result(NamedTuple):
    """How a runner ended."""

    exit_code: int
    left: list[tuple[int, Left]]  # (workflow, job) without an outcome, where this runner gave up on them
    set_aside: list[str]
    recorded: dict[Status, int]  # outcomes that this runner recorded


class Stage(enum.Enum):
    """What the runner is still willing to do."""

    CLAIMING = enum.auto()
    FINISHING = enum.auto()  # asked to stop: runs what it has, claims nothing more
    ENDING = enum.auto()  # a signal, or its end of time: jobs have had their notice
    KILLING = enum.auto()  # a second signal


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
        output = None if options.output_dir is None else os.path.abspath(options.output_dir)
        self.spool, self.options, self.workflow_id = spool, options._replace(output_dir=output), workflow_id
        self._tell, self._progress = tell, progress
        self.name = actors.new_name()
        self.slots = Slots(options.capacity, max_parallel_jobs=options.max_parallel_jobs)
        self.executions: dict[int, Execution] = {}  # by pid
        self.recorded: dict[Status, int] = {}
        self.served: dict[int, Served] = {}
        self._of: dict[int, tuple[Served, Starter]] = {}  # by id(execution)
        self._starters: dict[int, Starter] = {}
        self._unstarted: list[Execution] = []  # running, as the spool sees it, but the process could not be made
        self._unrecorded: list[Execution] = []  # ended, but the disk would not take it
        self._retry_at = math.inf
        self._give_up_at = math.inf  # on results that the disk will not take
        self._skipped: dict[str, str] = {}  # workflows that cannot be served, and why
        self._closed: list[tuple[int, int]] = []  # (workflow, exit code) of those that are done with
        self._left: list[tuple[int, Left]] = []
        self._set_aside: list[str] = []
        self._stage = Stage.CLAIMING
        self._signals: list[int] = []
        self._stop_reason = ""
        self._fenced = False
        self._ends_at: float | None = None
        self._idle_since: float | None = None
        self._beat_at = 0.0
        self._sample_at = math.inf
        self._pace = Pace(1.0)
        self._slowest = NETWORK_POLL_S if fsops.is_network(spool.path) else LOCAL_POLL_S
        self._wakeup: Wakeup | None = None
        self._launching: dict[int, Execution] = {}  # by id(execution): their processes are being made
        self._spawner = Spawner(self._wake)

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
        return Result(self._exit_code(), self._left, self._set_aside, self.recorded)

    def _begin(self) -> None:
        now = time.monotonic()
        self._beat_at = now + actors.HEARTBEAT_S
        if self.options.time_limit_s is not None:
            self._ends_at = now + self.options.time_limit_s
        for served in list(self.served.values()):
            self._first_look(served)

    def _first_look(self, served: Served) -> None:
        if self.workflow_id is not None:
            served.owner()
        served.recover()
        served.settle()

    def _step(self) -> bool:
        """One turn; False when the runner is through."""
        try:
            self._heed_signals()
            self._take_in()
            if self._reap():
                self._put_away_orphans()
            self._retry()
            self._timers()
            self._obey()
            if self._stage is Stage.CLAIMING:
                self._settle_when_due()
                self._fill()
        except Fenced as fenced:
            self._be_fenced(fenced)
        self._progress(self)
        if self.executions or self._launching or self._unstarted or self._unrecorded:
            self._idle_since = None
            if self._pace.due():
                self._pace.slower(self._slowest)
            return self._stage is not Stage.KILLING or bool(self.executions or self._launching)
        return self._stage is Stage.CLAIMING and self._idle()

    def _timeout(self) -> float:
        now = time.monotonic()
        at = min(
            self._beat_at,
            self._sample_at,
            self._retry_at,
            self._pace.at,
            min((execution.kill_at or math.inf for execution in self.executions.values()), default=math.inf),
            min((self._runtime_end(execution) for execution in self.executions.values()), default=math.inf),
            self._notice_at(),
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
            scheduler=options.scheduler,
            any_scheduler=options.any_scheduler,
            slurm_job_id=os.environ.get("SLURM_JOB_ID"),
            max_parallel_jobs=options.max_parallel_jobs,
            num_cpus=capacity.num_cpus,
            num_gpus=len(capacity.gpus),
            num_nodes=capacity.num_nodes,
            memory_mib=capacity.memory_mib,
        )
        served = Served(store, record, directories=directories)
        output = options.output_dir or store.workflow.output_dir or store.layout.output
        output = os.path.abspath(output)
        if output != store.layout.output:
            fsops.make_output_directory(output)
        self._starters[workflow_id] = Starter(
            workflow_id=workflow_id,
            runner=self.name,
            cwd=store.workflow.cwd,
            output_dir=output,
            environ=os.environ,
            spool=self.spool.path,
            gpu_variable=None if options.max_parallel_jobs is not None else capacity.gpu_variable,
        )
        self.served[workflow_id] = served
        return served

    def _leave(self, served: Served, exit_code: int) -> None:
        self._set_aside += served.set_aside
        self._closed.append((served.id, exit_code))
        self.served.pop(served.id)
        self._starters.pop(served.id).close()
        served.close(exit_code)

    # -- claims ---------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Claim and start what fits. Older workflows first; within one, its own order."""
        for served in list(self.served.values()):
            for job in served.claim(self.slots.offer(self._seconds_left())):
                self._start(served, job)

    def _seconds_left(self) -> float | None:
        """In whole seconds, rounded up: a job of two hours fits in a limit of two hours."""
        return None if self._ends_at is None else math.ceil(self._ends_at - time.monotonic())

    def _start(self, served: Served, job: Claimed) -> None:
        actor = served.owner()
        grant = self.slots.take(job.pick)
        started = actor.start(job.filename, job.name, job.content)
        if started is None:
            self.slots.free(grant)
            self._tell(f"job {job.content.job.name} was moved away before it could start")
            return
        starter = self._starters[served.id]
        execution = starter.prepare(*started, job.content, grant)
        self._of[id(execution)] = (served, starter)
        self._launch(execution)

    def _launch(self, execution: Execution) -> None:
        _, starter = self._of[id(execution)]
        self._launching[id(execution)] = execution
        self._spawner.start(execution, starter.order(execution))

    def _take_in(self, *, wait: bool = False) -> None:
        """Take in the processes that have been started since."""
        for execution, pid, error in self._spawner.outcomes(wait=wait):
            del self._launching[id(execution)]
            if error is not None:
                self._not_launched(execution, error)
                continue
            execution.pid = pid
            self._launched(execution)
            if execution.ending is not None:
                execution.end(execution.ending, self.options.grace_s)
            if self._stage is Stage.KILLING:
                execution.kill()

    def _launched(self, execution: Execution) -> None:
        served, _ = self._of[id(execution)]
        self.executions[execution.pid] = execution
        resources = execution.content.job.resources
        if self._limits and resources.memory_bytes is not None:
            self._sample_at = min(self._sample_at, time.monotonic() + MEMORY_SAMPLE_S / 4)
        served.owner().note(
            {
                "event": "start",
                "id": execution.name.id,
                "attempt": execution.name.attempt,
                "pid": execution.pid,
                "time": execution.started,
                "gpus": ",".join(execution.grant.devices) or None,
                "stdout": execution.stdout,
                "stderr": execution.stderr,
            }
        )

    def _not_launched(self, execution: Execution, error: Exception) -> None:
        """A node that cannot make processes or files now must not eat the queue: the job waits. What is wrong with
        the job itself (its directory, its length) is its failure."""
        if not isinstance(error, OSError | StorageError):
            raise error
        if isinstance(error, StorageError) or error.errno in _TRY_LATER:
            if not self._unstarted:
                self._tell(f"job {execution.content.job.name} cannot be started yet: {error}; trying again")
            if self._stage in (Stage.ENDING, Stage.KILLING) and execution.ending is None:
                self._give_back(execution)
                return
            self._unstarted.append(execution)
            self._retry_at = min(self._retry_at, time.monotonic() + START_RETRY_S)
            return
        execution.could_not_start(f"could not be started: {error.strerror}: {error.filename}")
        self._record(execution)

    @property
    def _limits(self) -> bool:
        return self.options.limit_resources and not self.slots.ignores_resources

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
            execution = self.executions.pop(exited.si_pid, None)
            if execution is None and self._launching:
                self._take_in(wait=True)  # it ended before we heard that it had begun
                continue
            if execution is None:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(exited.si_pid, os.WNOHANG)
                continue
            execution.collect()
            self._record(execution)

    def _put_away_orphans(self) -> None:
        """Kill what a job left that had changed its session: it was handed to us when its parent died."""
        running = {execution.task for execution in self._under_way()}
        for task in orphaned_tasks(self.executions):
            if task not in running:
                processes.kill_marked(TASK_VARIABLE, task)

    def _record(self, execution: Execution) -> None:
        """f1 to f3, then what follows; the slot is free only after that."""
        served, _ = self._of[id(execution)]
        attempt, name = execution.attempt, execution.name
        assert attempt is not None
        assert attempt.outcome is not None
        actor = served.owner()
        try:
            known = actor.record_result(execution.filename, execution.content, attempt)
            shown = known and actor.show(execution.filename, attempt.outcome)
        except StorageError as error:
            if not self._unrecorded:
                self._tell(f"the result of job {execution.content.job.name} cannot be recorded yet: {error}")
            self._unrecorded.append(execution)
            self._retry_at = min(self._retry_at, time.monotonic() + RECORD_RETRY_S)
            return
        self._of.pop(id(execution))
        self.slots.free(execution.grant)
        if not shown:
            self._tell(f"job {execution.content.job.name} was moved away while it ran; its result is not recorded")
            return
        self.recorded[attempt.outcome] = self.recorded.get(attempt.outcome, 0) + 1
        actor.note(
            {
                "event": "end",
                "id": name.id,
                "attempt": name.attempt,
                "outcome": attempt.outcome,
                "return_code": attempt.return_code,
                "time": attempt.end_time,
            }
        )
        if attempt.outcome is not Status.COMPLETED:
            self._tell(
                f"{attempt.outcome}: job {execution.content.job.name} (attempt {name.attempt}): {attempt.reason}; "
                f"stderr: {execution.stderr}"
            )
        if attempt.outcome is Status.CANCELED:
            served.obeyed(naming.Request(job=Cause(name.id, name.attempt)))
        served.add(served.settler.after(name.id, name.attempt, attempt.outcome))
        self._pace.hurry()

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
            if execution.ending is not None:
                execution.could_not_start(execution.ending.reason)
                self._record(execution)
            else:
                self._launch(execution)
        if self._unrecorded and time.monotonic() > self._give_up_at:
            self._tell(f"{len(self._unrecorded)} results could not be recorded; those jobs will be run again")
            self._unrecorded.clear()

    # -- timers ---------------------------------------------------------------------------------------------

    def _timers(self) -> None:
        now = time.monotonic()
        if now >= self._beat_at:
            self._beat_at = now + actors.HEARTBEAT_S
            for served in self.served.values():
                if served.actor is not None:
                    served.actor.beat()
        for execution in list(self.executions.values()):
            if execution.kill_at is not None and now >= execution.kill_at:
                execution.kill()
            elif now >= self._runtime_end(execution):
                execution.end(execution.runtime_ending(), self.options.grace_s)
        if now >= self._sample_at:
            self._sample_memory(now)
        if now >= self._notice_at() and self._stage in (Stage.CLAIMING, Stage.FINISHING):
            self._end_jobs("the runner's time ended")

    def _runtime_end(self, execution: Execution) -> float:
        runtime = execution.content.job.resources.runtime_s
        if runtime is None or not self._limits or execution.ending is not None:
            return math.inf
        return execution.started_clock + runtime

    def _notice_at(self) -> float:
        """When jobs get their notice: a grace before the end of time, but at most a tenth of it."""
        if self._ends_at is None or self._stage in (Stage.ENDING, Stage.KILLING):
            return math.inf
        return self._ends_at - min(self.options.grace_s, 0.1 * (self.options.time_limit_s or 0.0))

    def _sample_memory(self, now: float) -> None:
        limited = {
            pid: execution
            for pid, execution in self.executions.items()
            if execution.content.job.resources.memory_bytes is not None and execution.ending is None
        }
        self._sample_at = now + MEMORY_SAMPLE_S if limited and self._limits else math.inf
        for pid, sample in processes.usage(limited).items():
            if limited[pid].over_memory(sample):
                limited[pid].end(limited[pid].memory_ending(), 0.0)

    # -- wishes and signals ---------------------------------------------------------------------------------

    def _obey(self) -> None:
        """Look at the requests when an event or the pace says so."""
        assert self._wakeup is not None
        changed = self._wakeup.changed
        for served in list(self.served.values()):
            if served.store.layout.requests in changed or self._pace.due():
                self._obey_in(served)

    def _obey_in(self, served: Served) -> None:
        cancels, stop = served.wishes()
        if cancels:
            for execution in [*self._under_way(), *self._unstarted]:
                name = execution.name
                if self._of[id(execution)][0] is served and Cause(name.id, name.attempt) in cancels:
                    execution.end(Ending(Status.CANCELED, "canceled by request"), self.options.grace_s)
        if stop and self._stage is Stage.CLAIMING:
            self._stage = Stage.FINISHING
            self._stop_reason = "it was asked to stop"
            self._tell("asked to stop: finishing what runs, claiming nothing more")
            served.obeyed(naming.Request(runner=self.name))

    def _heed_signals(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            name = signal.Signals(number).name
            if self._stage in (Stage.CLAIMING, Stage.FINISHING):
                self._tell(f"{name}: jobs have {self.options.grace_s:g} s to end; once more to end at once")
                self._end_jobs(f"the runner was stopped by {name}")
            else:
                self._stage = Stage.KILLING
                for execution in self._under_way():
                    execution.kill()

    def _under_way(self) -> list[Execution]:
        """The jobs that run, or are about to."""
        return [*self.executions.values(), *self._launching.values()]

    def _end_jobs(self, reason: str) -> None:
        """Claim nothing more, and give every job its notice."""
        self._stage = Stage.ENDING
        self._stop_reason = reason
        self._give_up_at = time.monotonic() + self.options.grace_s + 2 * RECORD_RETRY_S
        for execution in self._under_way():
            execution.end(Ending(Status.TERMINATED, reason), self.options.grace_s)
        unstarted, self._unstarted = self._unstarted, []
        for execution in unstarted:
            self._give_back(execution)

    def _give_back(self, execution: Execution) -> None:
        served, _ = self._of.pop(id(execution))
        served.owner().give(execution.filename, execution.name, execution.content.job, Status.RUNNING)
        self.slots.free(execution.grant)

    def _be_fenced(self, fenced: Fenced) -> None:
        """Others hold our work: kill it, record nothing."""
        self._tell(str(fenced))
        self._fenced = True
        self._stage = Stage.KILLING
        self._stop_reason = "it was fenced"
        while self._launching:
            self._take_in(wait=True)
        for execution in self.executions.values():
            execution.kill()
            processes.kill_marked(TASK_VARIABLE, execution.task)
        self.executions.clear()
        self._unstarted.clear()
        self._unrecorded.clear()

    # -- idleness -------------------------------------------------------------------------------------------

    def _settle_when_due(self) -> None:
        """Take in what events and the pace say."""
        assert self._wakeup is not None
        changed, self._wakeup.changed = self._wakeup.changed, set()
        if self._pace.due() or self.spool.path in changed:
            self._open_workflows()
        for served in self.served.values():
            served.stale = served.stale or any(path.startswith(served.store.layout.root) for path in changed)
            served.settle_if_due()
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
        if not waiting and now >= self._idle_since + self.options.wait_for_new_jobs_s:
            for served in list(self.served.values()):
                self._leave(served, self._conclude(served))
            return False
        directories = [path for served in self.served.values() for path in served.watched()]
        if self.workflow_id is None:
            directories.append(self.spool.path)
        if self._wakeup.watch(directories):
            self._pace.now()  # something may have come before the watch was there
        else:
            self._pace.slower(self._slowest)
        return True

    def _look_again(self, served: Served) -> bool:
        """Settle, take back from the dead, and look at the ready jobs; True when there may be something to claim."""
        if served.finished:
            served.refresh()  # only a retry can make work, and it makes it ready
            return served.has_fitting(self.slots.offer(self._seconds_left()))
        if served.recover():
            return True
        if served.settle():
            return True
        served.refresh()
        return served.has_fitting(self.slots.offer(self._seconds_left()))

    def _worth_waiting(self) -> bool:
        offer = self.slots.offer(self._seconds_left())
        return any(not served.finished and served.may_follow(offer) for served in self.served.values())

    def _conclude(self, served: Served) -> int:
        """The exit code for one workflow, with what is left of it."""
        outcomes = served.outcomes()
        if len(outcomes) >= served.store.workflow.num_jobs:
            served.sweep_requests()
            completed = all(outcome is Status.COMPLETED for outcome in outcomes.values())
            return errors.EXIT_OK if completed else errors.EXIT_JOBS_FAILED
        self._left += [(served.id, left) for left in served.left(self.slots.offer(self._seconds_left()))]
        return errors.EXIT_JOBS_LEFT

    # -- the end --------------------------------------------------------------------------------------------

    def _abandon(self) -> None:
        """Leave every workflow; what could not be recorded stays where a recovery finds it."""
        self._spawner.close()
        for execution in list(self.executions.values()):
            execution.kill()
        processes.kill_marked(recovery.RUNNER_VARIABLE, self.name)
        for served in list(self.served.values()):
            code = self._stopped_code(served)
            self._set_aside += served.set_aside
            self._closed.append((served.id, code))
            self._starters.pop(served.id).close()
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
            return errors.EXIT_STOPPED
        if all(outcome is Status.COMPLETED for outcome in outcomes.values()):
            return errors.EXIT_OK
        # jobs that this runner's own end terminated are work that is left
        ended = self._stage in (Stage.ENDING, Stage.KILLING) and Status.TERMINATED in self.recorded
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
        yield "running", len(self.executions)
        yield from ((str(outcome), count) for outcome, count in self.recorded.items())
