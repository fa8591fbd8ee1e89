"""One attempt of a job as processes: start, watch, limit, kill, and what came of it."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Collection, Mapping
from typing import NamedTuple

from torc_spool import fsops, naming, processes
from torc_spool.errors import StorageError
from torc_spool.model import MIB, Attempt, Status
from torc_spool.naming import JobName
from torc_spool.slots import Grant
from torc_spool.spawn import Environment, Order
from torc_spool.store import Content

TASK_VARIABLE = "TORC_TASK"  # in the environment of every process of one attempt, and of no other
RETURN_CODE_RUNTIME = 152  # as Torc records a job that ran over its stated runtime
RETURN_CODE_MEMORY = 137  # as Torc records a job that was killed for its memory
_BASHES = ("/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash")
BASH = next((path for path in _BASHES if os.access(path, os.X_OK)), _BASHES[0])

_OWN_VARIABLES = ("TORC_JOB_ID", "TORC_JOB_NAME", "TORC_ATTEMPT_ID", TASK_VARIABLE)
_OUTPUT_TRIES = 3


class Ending(NamedTuple):
    """Why we ended a job ourselves."""

    outcome: Status
    reason: str
    return_code: int | None = None  # None: what the process returned
    at_once: bool = False  # SIGKILL without a notice


class Execution:
    """A started job. Made by `Starter.start`."""

    def __init__(self, filename: str, name: JobName, content: Content, grant: Grant, outputs: tuple[str, str]) -> None:
        self.filename, self.name, self.content, self.grant = filename, name, content, grant
        self.stdout, self.stderr = outputs
        self.pid = 0  # 0: not started
        self.task = ""
        self.made: set[str] = set()  # output files of an earlier try to start it
        self.started = time.time()
        self.started_clock = time.monotonic()
        self.ending: Ending | None = None
        self.kill_at: float | None = None  # when, by the monotonic clock, SIGKILL follows the notice
        self.sampled_peak = 0
        self.attempt: Attempt | None = None  # the result, once there is one

    def end(self, ending: Ending, grace_s: float) -> None:
        """Give the job its notice, SIGTERM, and SIGKILL after the grace; the first reason to end it holds."""
        if self.ending is None:
            self.ending = ending
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

    def collect(self) -> None:
        """The process has exited: end what it left in its group, reap it, and make the result."""
        ended_clock = time.monotonic()
        # before it is waited for, its id cannot be another group's
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)
        _, wait_status, usage = os.wait4(self.pid, 0)
        code = os.waitstatus_to_exitcode(wait_status)
        code = 128 - code if code < 0 else code
        if self.ending is not None:
            processes.kill_marked(TASK_VARIABLE, self.task)
        self.attempt = self._result(code, usage, ended_clock - self.started_clock)

    def could_not_start(self, reason: str) -> None:
        """The result of a job whose process could not be made, through no fault of this node."""
        ending = self.ending
        self.attempt = self._attempt(
            ending.outcome if ending else Status.FAILED, None, ending.reason if ending else reason, 0.0
        )

    def _result(self, code: int, usage: resource.struct_rusage, exec_s: float) -> Attempt:
        ending = self.ending
        if ending is not None:
            returned = ending.return_code if ending.return_code is not None else code
            return self._attempt(ending.outcome, returned, ending.reason, exec_s, usage)
        if code == 0:
            return self._attempt(Status.COMPLETED, 0, None, exec_s, usage)
        reason = f"return code {code}"
        if code > 128 and code - 128 in signal.valid_signals():
            reason += f" ({signal.Signals(code - 128).name})" if code - 128 in _NAMED else ""
        return self._attempt(Status.FAILED, code, reason, exec_s, usage)

    def _attempt(
        self,
        outcome: Status,
        code: int | None,
        reason: str | None,
        exec_s: float,
        usage: resource.struct_rusage | None = None,
    ) -> Attempt:
        runner, _, _ = self.task.partition("/")
        return Attempt(
            attempt=self.name.attempt,
            outcome=outcome,
            return_code=code,
            reason=reason,
            runner=runner or None,
            host=processes.host_name(),
            start_time=self.started,
            end_time=self.started + exec_s,
            exec_s=round(exec_s, 6),
            cpu_s=None if usage is None else round(usage.ru_utime + usage.ru_stime, 6),
            peak_memory_bytes=self._peak(usage),
            gpus=",".join(self.grant.devices) or None,
            stdout=self.stdout,
            stderr=self.stderr,
        )

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
        limit = self.content.job.resources.memory_bytes
        self.sampled_peak = max(self.sampled_peak, sample.rss_bytes)
        if limit is None or sample.rss_bytes <= limit:
            return False
        return processes.pss_bytes(sample.pids) > limit  # shared pages counted once

    def memory_ending(self) -> Ending:
        limit = (self.content.job.resources.memory_bytes or 0) / MIB
        return Ending(
            Status.FAILED,
            f"used more than its memory of {limit:.0f} MiB",
            RETURN_CODE_MEMORY,
            at_once=True,
        )

    def runtime_ending(self) -> Ending:
        return Ending(
            Status.TERMINATED,
            f"ran longer than its runtime of {self.content.job.resources.runtime_s} s",
            RETURN_CODE_RUNTIME,
        )


_NAMED = {int(number) for number in signal.Signals}


class Starter:
    """Starts the jobs of one workflow for one runner: what is the same for all of them is made once."""

    def __init__(
        self,
        *,
        workflow_id: int,
        runner: str,
        cwd: str,
        output_dir: str,
        environ: Mapping[str, str],
        spool: str,
        gpu_variable: str | None,
    ) -> None:
        self._workflow_id, self._runner, self._cwd, self._output_dir = workflow_id, runner, cwd, output_dir
        self._gpu_variable = gpu_variable
        own = {*_OWN_VARIABLES, gpu_variable}
        self._environment = Environment(
            {
                **{name: value for name, value in environ.items() if name not in own},
                "TORC_WORKFLOW_ID": str(workflow_id),
                "TORC_OUTPUT_DIR": output_dir,
                "TORC_SPOOL_DIR": spool,
                "TORC_RUNNER": runner,
            }
        )
        self._stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._stdin)

    def prepare(self, filename: str, name: JobName, content: Content, grant: Grant) -> Execution:
        """A job that is about to start, with the paths of its output; nothing is made yet."""
        out, err = naming.output_names(self._workflow_id, name)
        execution = Execution(
            filename, name, content, grant, (f"{self._output_dir}/{out}", f"{self._output_dir}/{err}")
        )
        execution.task = f"{self._runner}/{self._workflow_id}/{name.id}.{name.attempt}"
        return execution

    def order(self, execution: Execution) -> Order:
        """What a spawner needs to start the job. Raises nothing: what goes wrong is in the spawner's outcome."""

        def prepare() -> tuple[int, int, int]:
            out, execution.stdout = _open_output(execution.stdout, execution.made)
            try:
                err, execution.stderr = _open_output(execution.stderr, execution.made)
            except BaseException:
                os.close(out)
                raise
            execution.started, execution.started_clock = time.time(), time.monotonic()
            return self._stdin, out, err

        command = execution.content.job.command
        own = self._own_variables(execution)
        return Order(BASH, ("bash", "-c", command), self._environment, own, self._cwd, prepare)

    def _own_variables(self, execution: Execution) -> dict[str, str]:
        job = execution.content.job
        own = (str(job.id), job.name, str(execution.name.attempt), execution.task)
        variables = dict(zip(_OWN_VARIABLES, own, strict=True))
        if self._gpu_variable is not None:
            variables[self._gpu_variable] = ",".join(execution.grant.devices)
        return variables


def _open_output(path: str, made: set[str]) -> tuple[int, str]:
    """A new file; where the name is taken (another spool with the same output directory) a name beside it.

    `made` are those that this attempt has made already.
    """
    if path in made:
        return fsops.reopen_output(path), path
    candidate = path
    for number in range(1, _OUTPUT_TRIES + 1):
        descriptor = fsops.open_output(candidate)
        if descriptor is not None:
            made.add(candidate)
            return descriptor, candidate
        candidate = f"{path}.{os.getpid()}.{number}"
    raise StorageError("create", path, None)


class Orphans(NamedTuple):
    """Children that we did not start: what jobs left behind was handed to us when its parent died."""

    tasks: set[str]
    nameless: list[int]  # pids of those whose environment does not say whose they are


def orphans(known: Collection[int] = ()) -> Orphans:
    """None where the kernel does not list children (proc_pid_task_children(5)); the runner's end finds most then."""
    found = Orphans(set(), [])
    mark = f"{TASK_VARIABLE}=".encode()
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            unknown = [int(pid) for pid in file.read().split() if int(pid) not in known]
    except OSError:
        return found
    for pid in unknown:
        environ: list[bytes] = []
        with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
            environ = file.read().split(b"\0")
        tasks = [entry[len(mark) :].decode() for entry in environ if entry.startswith(mark)]
        if tasks:
            found.tasks.update(tasks)
        else:
            found.nameless.append(pid)
    return found


def end_children(timeout_s: float = processes.KILL_TIMEOUT_S) -> None:
    """Kill whatever children we have, and those that they leave us, when no job runs any more."""
    deadline = time.monotonic() + timeout_s
    spared: set[int] = set()  # they run as somebody else, and are not ours to kill
    while pids := orphans(spared).nameless:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)  # it is still the same one: we have not waited for it
            except PermissionError:
                spared.add(pid)
                continue
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
                    time.sleep(0.001)
        if time.monotonic() >= deadline:
            return
