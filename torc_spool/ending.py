"""How a runner comes to its end: its limit of time, signals, and what its jobs are told."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable

from torc_spool.executor import START_TROUBLE_S, Executor
from torc_spool.options import WALLTIME_END, Options, Stage
from torc_spool.wakeup import NOTICE

WALLTIME_ABOUT_S = 60.0  # Slurm's clock strikes every half a minute
LAST_S = 10.0  # before the end of the allocation all is over: what is recorded then takes its time


class Ending:
    """What a runner is still willing to do, and until when."""

    def __init__(
        self, options: Options, executor: Executor, *, in_allocation: bool, tell: Callable[[str], None]
    ) -> None:
        self.stage = Stage.CLAIMING
        self._options, self._executor, self._tell = options, executor, tell
        self._in_allocation = in_allocation
        self._ends_at: float | None = None
        self._walltime_at = -math.inf  # when Slurm ends everything, where that is known
        self._spared_until = math.inf  # when those have their notice that were spared at the end

    def begin(self) -> None:
        """The limits of time count from now."""
        now = time.monotonic()
        if self._options.time_limit_s is not None:
            self._ends_at = now + self._options.time_limit_s
        if self._options.walltime_s is not None:
            self._walltime_at = now + self._options.walltime_s

    @property
    def is_claiming(self) -> bool:
        return self.stage is Stage.CLAIMING

    @property
    def is_open(self) -> bool:
        """Whether its jobs may still run to their ends."""
        return self.stage in (Stage.CLAIMING, Stage.FINISHING)

    def seconds_left(self) -> float | None:
        """In whole seconds, rounded up: a job of two hours fits in a limit of two hours. None: no limit."""
        return None if self._ends_at is None else math.ceil(self._ends_at - time.monotonic())

    def next_at(self) -> float:
        """When `keep_time` has something to do, by the monotonic clock."""
        return min(self._notice_at(), self._spared_until)

    def _notice_at(self) -> float:
        """When jobs get their notice: a grace before the end of time, but at most a tenth of it."""
        if self._ends_at is None or not self.is_open:
            return math.inf
        return self._ends_at - min(self._options.grace_s, 0.1 * (self._options.time_limit_s or 0.0))

    def keep_time(self) -> None:
        """Do what is due: stop claiming on a node that starts nothing, give jobs their notice."""
        now = time.monotonic()
        if self._executor.is_sick and self.is_claiming:
            self.finish(f"this node could start no job for {START_TROUBLE_S:g} s: claiming nothing more")
        if self.stage is Stage.FINISHING:
            self._executor.gives_back = True
        if now >= self._notice_at():
            self._end_jobs(self._options.end_reason)
        if now >= self._spared_until and self.stage is Stage.ENDING:
            self._spared_until = math.inf
            self._executor.end_all(WALLTIME_END)

    def finish(self, said: str | None = None) -> None:
        """Let what runs come to its end, and claim nothing more."""
        self.stage = Stage.FINISHING
        if said is not None:
            self._tell(said)

    def kill(self) -> None:
        self.stage = Stage.KILLING

    def heed(self, number: int) -> None:
        """A signal has come."""
        if number == NOTICE:
            if self.is_open:
                self._tell("SIGUSR1: the walltime is about to end; jobs have their notice")
                self._end_jobs(WALLTIME_END)
            return
        if self.is_open or self._spared_until < math.inf:
            name = signal.Signals(number).name
            self._tell(f"{name}: jobs have {self._options.grace_s:g} s to end; once more to end at once")
            self._be_stopped(number, name)
        else:
            self.kill()
            self._executor.kill_all()

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
        self.stage = Stage.ENDING
        self._executor.end_all(reason, leave=leave)

    def _end_jobs(self, reason: str) -> None:
        """Claim nothing more, and give every job its notice. At the end of the walltime those that do not support
        termination run on as long as they can: perhaps they come to their end."""
        self.stage = Stage.ENDING
        last = self._walltime_at - self._options.grace_s - LAST_S
        is_spare = reason == WALLTIME_END and time.monotonic() < last
        self._spared_until = last if is_spare else math.inf
        self._executor.end_all(reason, spare=is_spare)
