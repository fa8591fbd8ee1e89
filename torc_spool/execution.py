"""One attempt of a job as processes: start, watch, limit, kill, and what came of it."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from typing import NamedTuple

from torc_spool import causes, handlers, processes
from torc_spool.contents import Content
from torc_spool.handlers import RETURN_CODE_RUNTIME, Script
from torc_spool.model import MIB, Attempt, FailureHandler, Job, Status, Stdio
from torc_spool.naming import JobName
from torc_spool.oomkills import NOT_KNOWN, OomCounter
from torc_spool.slots import Grant

TASK_VARIABLE = "TORC_TASK"  # in the environment of every process of one attempt, and of no other
_TERMINATED = 128 + signal.SIGTERM


class Ending(NamedTuple):
    """Why we ended a job ourselves."""

    outcome: Status
    reason: str
    return_code: int | None = None  # None: what the process returned
    at_once: bool = False  # SIGKILL without a notice
    is_handled: bool = False  # whether the job's failure handler may have it run again
    is_left: bool = False  # whether nothing is recorded: who takes the runner's work back has the job run again
    cause: str | None = None  # a word of `causes`


class Outputs(NamedTuple):
    """Where an attempt's output goes; None: nowhere. Both may go to one file."""

    stdout: str | None
    stderr: str | None


class Execution:
    """A started job: its recovery script first, where it has one to run, then its command. See `Starter.prepare`."""

    def __init__(self, filename: str, name: JobName, content: Content, grant: Grant, outputs: Outputs) -> None:
        self.filename, self.name, self.content, self.grant = filename, name, content, grant
        self.outputs = outputs
        self.stdio = Stdio()
        self.handler: FailureHandler | None = None
        self.script: Script | None = None  # what runs now, or is about to, in place of the command
        self.digest: str | None = None
        self.inputs: dict[str, tuple[int, int, str | None]] = {}  # fingerprints, as they are to be recorded
        self.pid = 0  # 0: not started
        self.task = ""
        self.made: set[str] = set()  # output files of an earlier try to start it, or of its recovery script
        self.started = time.time()
        self.started_clock = time.monotonic()
        self.ending: Ending | None = None
        self.kill_at: float | None = None  # when, by the monotonic clock, SIGKILL follows the notice
        self.sampled_peak = 0
        self.oom_kills = NOT_KNOWN  # before it started
        self.is_alone = True  # whether no other job of this runner has run beside it
        self.attempt: Attempt | None = None  # the result, once there is one
        self._exit: tuple[int, str | None, resource.struct_rusage, float] | None = None  # of what it was made
        self.is_recorded = False  # whether it is in the job's file

    @property
    def job(self) -> Job:
        return self.content.job

    def end(self, ending: Ending, grace_s: float) -> None:
        """Give the job its notice, SIGTERM, and SIGKILL after the grace; the first reason to end it holds.

        One that has exited did so because of this, as we have learned since.
        """
        if self.ending is None:
            self.ending = ending
        if self._exit is not None:
            self.attempt = self._result(*self._exit)
            return
        if not self.pid:
            return
        if ending.at_once or grace_s <= 0:
            self.kill()
        elif self.kill_at is None:
            self.kill_at = time.monotonic() + grace_s
            processes.kill_tree(self.pid, (TASK_VARIABLE, self.task), signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL for the whole process tree."""
        if self.pid:
            self.kill_at = None
            processes.kill_tree(self.pid, (TASK_VARIABLE, self.task), signal.SIGKILL)

    def collect(self, counter: OomCounter | None = None) -> bool:
        """The process has exited: end what it left in its group, reap it, and make the result.

        False when there is none yet: the recovery script is through, and the command is to be started.
        """
        ended_clock = time.monotonic()
        # before it is waited for, its id cannot be another group's
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)
        _, wait_status, usage = os.wait4(self.pid, 0)
        code = os.waitstatus_to_exitcode(wait_status)
        code = 128 - code if code < 0 else code
        if self.ending is not None:
            processes.kill_marked(TASK_VARIABLE, self.task)
        elif self.script is not None and code == 0:
            self.script, self.pid, self.sampled_peak = None, 0, 0
            return False
        cause = None
        if self.ending is None and code:
            # What was killed on the other nodes of a job nobody counts here; nor what docker, ssh or srun tells of by
            # a return code: that may have been anywhere, and is taken for what it says, as Torc does.
            is_told = code == causes.RETURN_CODE_KILLED and os.WIFEXITED(wait_status)
            is_here = self.job.resources.num_nodes == 1 and not is_told
            after = counter.now() if counter is not None and is_here else NOT_KNOWN
            cause = causes.of_exit(code, self.oom_kills, after, is_alone=self.is_alone)
        self._exit = (code, cause, usage, ended_clock - self.started_clock)
        self.attempt = self._result(*self._exit)
        return True

    def may_have_been_ended(self, *, among_others: bool) -> bool:
        """Whether somebody who stops us may have stopped it with us, so that our own signal is still to come.

        `among_others`: Slurm does so, and a job that heeds SIGTERM may exit as it likes.
        """
        if self.attempt is None or self.ending is not None:
            return False
        code = self.attempt.return_code
        return code == _TERMINATED or (among_others and (code != 0 or self.job.supports_termination))

    def could_not_start(self, reason: str) -> None:
        """The result of a job whose process could not be made, through no fault of this node."""
        ending = self.ending
        self.attempt = self._attempt(
            ending.outcome if ending else Status.FAILED,
            None,
            ending.reason if ending else reason,
            0.0,
            cause=ending.cause if ending else None,
        )

    def _result(self, code: int, cause: str | None, usage: resource.struct_rusage, exec_s: float) -> Attempt:
        ending = self.ending
        if ending is not None:
            returned = ending.return_code if ending.return_code is not None else code
            where = f"in the recovery script of rule {self.script.rule}: " if self.script else ""
            return self._attempt(ending.outcome, returned, where + ending.reason, exec_s, usage, ending.cause)
        if self.script is not None:
            reason = f"recovery script of rule {self.script.rule} returned {code}; the command was not run again"
            return self._attempt(Status.FAILED, code, reason, exec_s, usage, cause)
        if code == 0:
            return self._attempt(Status.COMPLETED, 0, None, exec_s, usage)
        reason = f"return code {code}"
        if code > 128 and code - 128 in signal.valid_signals():
            reason += f" ({signal.Signals(code - 128).name})" if code - 128 in _NAMED else ""
        if cause == causes.OUT_OF_MEMORY:
            reason += ", out of memory"
        return self._attempt(Status.FAILED, code, reason, exec_s, usage, cause)

    def _attempt(
        self,
        outcome: Status,
        code: int | None,
        reason: str | None,
        exec_s: float,
        usage: resource.struct_rusage | None = None,
        cause: str | None = None,
    ) -> Attempt:
        runner, _, _ = self.task.partition("/")
        # what completes and is not kept is removed once that has been shown: the record speaks of then
        is_kept = outcome is not Status.COMPLETED or not self.stdio.delete_on_success
        return Attempt(
            attempt=self.name.attempt,
            outcome=outcome,
            return_code=code,
            reason=reason,
            cause=cause,
            runner=runner or None,
            host=processes.host_name(),
            start_time=self.started,
            end_time=self.started + exec_s,
            exec_s=round(exec_s, 6),
            cpu_s=None if usage is None else round(usage.ru_utime + usage.ru_stime, 6),
            peak_memory_bytes=self._peak(usage),
            gpus=",".join(self.grant.devices) or None,
            stdout=self.outputs.stdout if is_kept else None,
            stderr=self.outputs.stderr if is_kept else None,
            retry_rule=self._retry_rule(outcome, code),
            digest=self.digest if self.script is None else None,
            inputs=self.inputs,
            **causes.stated(cause, self.job.resources),
        )

    def _retry_rule(self, outcome: Status, code: int | None) -> int | None:
        """The rule by which the job is run again; a recovery script that fails is not handled again."""
        if self.handler is None or self.script is not None:
            return None
        if self.ending is not None and not self.ending.is_handled:
            return None
        return handlers.rule_for(self.handler, self.job.attempts, outcome, code)

    def _peak(self, usage: resource.struct_rusage | None) -> int | None:
        """The largest of what was sampled and what the kernel says; None when neither knows.

        The kernel's figure of a child starts with the memory of the process that made it (getrusage(2): the
        maximum survives execve), so a figure no larger than our own says nothing of the job.
        """
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        kernel = usage.ru_maxrss * 1024 if usage is not None and usage.ru_maxrss > own else 0
        return max(self.sampled_peak, kernel) or None

    def over_memory(self, sample: processes.Usage) -> bool:
        """Take in a sample of the memory; True when the job holds more than it has stated."""
        limit = self.job.resources.memory_bytes
        self.sampled_peak = max(self.sampled_peak, sample.rss_bytes)
        if limit is None or sample.rss_bytes <= limit:
            return False
        return processes.pss_bytes(sample.pids) > limit  # shared pages counted once

    def memory_ending(self) -> Ending:
        limit = (self.job.resources.memory_bytes or 0) / MIB
        return Ending(
            Status.FAILED,
            f"used more than its memory of {limit:.0f} MiB",
            causes.RETURN_CODE_KILLED,
            at_once=True,
            is_handled=True,
            cause=causes.OUT_OF_MEMORY,
        )

    def runtime_ending(self) -> Ending:
        return Ending(
            Status.TERMINATED,
            f"ran longer than its runtime of {self.job.resources.runtime_s} s",
            RETURN_CODE_RUNTIME,
            is_handled=True,
            cause=causes.OUT_OF_TIME,
        )


_NAMED = {int(number) for number in signal.Signals}
