"""What jobs may take: their time, their memory, and the grace after their notice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from torc_spool import processes
from torc_spool.execution import Execution

MEMORY_SAMPLE_S = 1.0


class Limits:
    """Ends the jobs that exceed what they state, where that is enforced; kills those that do not heed their notice."""

    def __init__(self, grace_s: float, *, enforced: bool) -> None:
        self._grace_s, self._enforced = grace_s, enforced
        self._sample_at = math.inf

    def watch(self, execution: Execution, now: float) -> None:
        """A job has been started: what it takes at once is seen soon."""
        if self._enforced and execution.job.resources.memory_bytes is not None:
            self._sample_at = min(self._sample_at, now + MEMORY_SAMPLE_S / 4)

    def next_at(self, running: Iterable[Execution]) -> float:
        """When to heed them again, by the monotonic clock."""
        ends = (min(execution.kill_at or math.inf, self._runtime_end(execution)) for execution in running)
        return min([self._sample_at, *ends])

    def heed(self, running: Mapping[int, Execution], now: float) -> None:
        """End what has exceeded its limits; `running` is by pid."""
        for execution in list(running.values()):
            if execution.kill_at is not None and now >= execution.kill_at:
                execution.kill()
            elif now >= self._runtime_end(execution):
                execution.end(execution.runtime_ending(), self._grace_s)
        if now >= self._sample_at:
            self._sample_memory(running, now)

    def _runtime_end(self, execution: Execution) -> float:
        runtime = execution.job.resources.runtime_s
        if runtime is None or not self._enforced or execution.ending is not None:
            return math.inf
        return execution.started_clock + runtime

    def _sample_memory(self, running: Mapping[int, Execution], now: float) -> None:
        limited = {
            pid: execution
            for pid, execution in running.items()
            if execution.job.resources.memory_bytes is not None and execution.ending is None
        }
        self._sample_at = now + MEMORY_SAMPLE_S if limited and self._enforced else math.inf
        for pid, sample in processes.usage(limited).items():
            if limited[pid].over_memory(sample):
                limited[pid].end(limited[pid].memory_ending(), 0.0)
