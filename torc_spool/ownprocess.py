"""A runner in a process of its own, for programs that are more than a runner.

A runner takes over its process: it reaps every child, handles signals, and at its end kills what is left of its jobs.
So a program that runs a workflow starts `runnermain` beside itself. The two share a command line (JSON), a file in
memory for the result, and a pipe for what the runner says. The work needs none of it: when the program dies, the runner
goes on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import operator
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple, Self, SupportsIndex, TypedDict

from torc_spool import errors, lease
from torc_spool.errors import RunnerLost, TorcSpoolError, UsageError
from torc_spool.quantities import parse_duration

LOGGER = logging.getLogger("torc_spool")
_LAST_WORDS = 20  # lines that are kept of what a runner says


class RunOptions(TypedDict, total=False):
    """How to run: the options of `torc-spool run`, in its words."""

    num_cpus: int
    memory_gb: float
    num_gpus: int
    num_nodes: int
    max_parallel_jobs: int
    scheduler: str | int
    any_scheduler: bool
    time_limit: str | float | timedelta  # an ISO 8601 duration, seconds, or a timedelta
    output_dir: str | os.PathLike[str]
    wait_for_new_jobs: float
    limit_resources: bool
    grace: float
    lease: float  # silent for so many seconds it is dead for others
    sick_after: int  # it claims nothing more after so many different jobs in a row failed at once; 0: never
    sick_within: float  # seconds that count as at once
    tell: Callable[[str], None]  # gets each line that the runner says; default: logging, as INFO of "torc_spool"


class RunResult(NamedTuple):
    """How a runner ended; the fields are those of `torc-spool -f json run`."""

    exit_code: int
    workflow_id: int | None
    recorded: dict[str, int]  # outcomes that this runner recorded
    left: list[dict[str, Any]]  # jobs without an outcome, where it gave up on them, and why
    set_aside: list[str]

    @property
    def ok(self) -> bool:
        """Every job completed."""
        return self.exit_code == errors.EXIT_OK


class RunnerProcess:
    """A runner that was started in the background. It goes on when nobody waits for it."""

    def __init__(self, spool: str, allow_shared: bool, workflow_id: int | None, options: RunOptions) -> None:
        """Start it. Raises UsageError for options that make no sense."""
        given = {
            "spool": spool,
            "allow_shared": allow_shared,
            "workflow_id": workflow_id,
            "options": _checked(options),
        }
        self._tell = options.get("tell") or LOGGER.info
        self._outcome: RunResult | TorcSpoolError | None = None
        self._ended = threading.Event()
        result = os.memfd_create("torc-spool result")  # unlike a pipe, it never makes the runner wait for us
        try:
            # a session of its own: the terminal's Ctrl-C comes through us once, and its hangup does not come at all
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "torc_spool.runnermain", json.dumps(given)],
                stdin=subprocess.DEVNULL,
                stdout=result,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except BaseException:
            os.close(result)
            raise
        threading.Thread(target=self._follow, args=[result], name=f"torc_spool runner {self.pid}", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def wait(self, timeout: float | None = None) -> RunResult:
        """How it ended, once it has. Raises TimeoutError, what the runner itself raised, or RunnerLost."""
        if not self._ended.wait(timeout):
            raise TimeoutError(f"the runner with pid {self.pid} has not ended after {timeout:g} s")
        if isinstance(self._outcome, RunResult):
            return self._outcome
        assert self._outcome is not None
        raise self._outcome

    def stop(self) -> None:
        """Ask it to end now: its jobs get their notice. Asked once more, it ends them at once. See `wait`."""
        self._signal(signal.SIGINT)  # SIGTERM is Slurm's: in an allocation jobs that it ends are run again

    def wait_in_foreground(self) -> RunResult:
        """As `wait`, but KeyboardInterrupt goes to the runner too: it is raised when the runner has ended."""
        interrupted: KeyboardInterrupt | None = None
        while True:
            try:
                result = self.wait()
            except KeyboardInterrupt as interrupt:
                interrupted = interrupt
                self._signal(signal.SIGINT)
                continue
            if interrupted is not None:
                raise interrupted
            return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it, and wait for its end."""
        if self.is_running:
            self.stop()
        with contextlib.suppress(TorcSpoolError):
            self.wait()

    def _signal(self, number: int) -> None:
        self._process.send_signal(number)  # does nothing for one that has ended

    def _follow(self, result: int) -> None:
        """Hear what it says, then read how it ended."""
        said: deque[str] = deque(maxlen=_LAST_WORDS)
        assert self._process.stderr is not None
        with open(result, "rb") as file:
            with self._process.stderr as pipe:
                for line in pipe:
                    said.append(line.decode(errors="replace").rstrip("\n"))
                    self._pass_on(said[-1])
            code = self._process.wait()
            file.seek(0)
            try:
                self._outcome = _outcome(**json.load(file))
            except ValueError:
                self._outcome = RunnerLost(self.pid, code, " | ".join(said))
        self._ended.set()

    def _pass_on(self, line: str) -> None:
        try:
            self._tell(line)
        except Exception:  # the caller's function; the runner must not have to wait for us
            LOGGER.exception("what a runner said could not be told")


def _outcome(
    *, error: str | None = None, message: str = "", facts: dict[str, Any] | None = None, **result: Any
) -> RunResult | TorcSpoolError:
    """The result of a runner, or the error that ended it, as it was in its process."""
    if error is None:
        return RunResult(**result)
    kind: type[TorcSpoolError] = getattr(errors, error)
    raised = kind.__new__(kind)
    Exception.__init__(raised, message)
    raised.__dict__.update(facts or {})
    return raised


def _checked(options: RunOptions) -> dict[str, Any]:
    """The options as JSON can hold them. Raises UsageError for those that no runner can have."""
    unknown = sorted(set(options) - set(RunOptions.__annotations__))
    if unknown:
        known = ", ".join(RunOptions.__annotations__)
        raise UsageError(f"{unknown[0]}: is no option of a run; there are {known}")
    given: dict[str, Any] = dict(options)
    checked = {name: value for name, value in given.items() if name != "tell" and value is not None}
    for name, (least, expected) in _COUNTS.items():
        if name in checked:
            value = checked[name]
            _require(_is_whole(value) and value >= least, name, expected, value)
            checked[name] = operator.index(value)
    for name, (valid, expected) in _OTHERS.items():
        if name in checked:
            _require(valid(checked[name]), name, expected, checked[name])
    if "scheduler" in checked:
        checked["scheduler"] = str(checked["scheduler"])
    if "time_limit" in checked:
        checked["time_limit"] = _seconds(checked["time_limit"])
    if "output_dir" in checked:
        checked["output_dir"] = os.path.abspath(os.fsdecode(checked["output_dir"]))
    return checked


def _is_whole(value: object) -> bool:
    return isinstance(value, SupportsIndex) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_COUNTS = {
    "num_cpus": (1, "a whole number from 1"),
    "num_gpus": (0, "a whole number from 0"),
    "num_nodes": (1, "a whole number from 1"),
    "max_parallel_jobs": (1, "a whole number from 1"),
    "sick_after": (0, "a whole number from 0"),
}
_OTHERS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "memory_gb": (lambda value: _is_number(value) and 0 < value < math.inf, "a number of GiB, more than 0"),
    "wait_for_new_jobs": (lambda value: _is_number(value) and value >= 0, "a number of seconds, 0 or more"),
    "grace": (lambda value: _is_number(value) and 0 <= value < math.inf, "a number of seconds, 0 or more"),
    "lease": (
        lambda value: _is_number(value) and lease.SHORTEST_S <= value < math.inf,
        f"a number of seconds, {lease.SHORTEST_S:g} or more",
    ),
    "sick_within": (lambda value: _is_number(value) and 0 <= value < math.inf, "a number of seconds, 0 or more"),
    "any_scheduler": (lambda value: isinstance(value, bool), "True or False"),
    "limit_resources": (lambda value: isinstance(value, bool), "True or False"),
    "scheduler": (
        lambda value: bool(value.strip()) if isinstance(value, str) else _is_whole(value),
        "a scheduler's name, or its number from 1",
    ),
}


def _seconds(value: Any) -> float:
    if isinstance(value, str):
        try:
            return parse_duration(value)
        except errors.SpecError as error:
            raise UsageError(f"time_limit: {error.message}") from error
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    valid = _is_number(seconds) and 0 < seconds < math.inf
    _require(valid, "time_limit", 'a duration such as "PT2H", a timedelta, or seconds, more than 0', value)
    return float(seconds)


def _require(valid: bool, name: str, expected: str, value: object) -> None:
    if not valid:
        raise UsageError(f"{name}: must be {expected}, got {value!r}")
