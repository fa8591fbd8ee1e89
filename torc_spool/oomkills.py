"""How many processes the kernel has killed because memory ran out: in this process's cgroup, and on this host."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from torc_spool.capacity import memory_levels

_MAX_BYTES = 1 << 16
FRESH_S = 0.05  # so old a count may be as that before a job's start


class OomKills(NamedTuple):
    """Counts that only rise; None where they cannot be read."""

    own: int | None  # of the cgroup, whoever killed: the cgroup's own limit or one above, or the whole host's need
    host: int | None


NOT_KNOWN = OomKills(None, None)


class OomCounter:
    """Reads the counts. They are files of the kernel on this host; nothing of the spool is touched."""

    def __init__(self, root: str = "/", clock: Callable[[], float] = time.monotonic) -> None:
        v2, v1 = memory_levels(root)
        own = [f"{directory}/memory.events" for directory in v2[:1]]  # cgroup-v2.rst: counts those below, too
        own += [f"{directory}/memory.oom_control" for directory in v1[:1]]
        self._own = _first(own)
        self._host = _first([f"{root.rstrip('/')}/proc/vmstat"])
        self._clock = clock
        self._last, self._read_at = NOT_KNOWN, float("-inf")

    def now(self) -> OomKills:
        self._last, self._read_at = OomKills(_count(self._own), _count(self._host)), self._clock()
        return self._last

    def lately(self) -> OomKills:
        """The same, or as it was a moment ago: many jobs may start in that."""
        return self._last if self._clock() < self._read_at + FRESH_S else self.now()

    def close(self) -> None:
        for descriptor in (self._own, self._host):
            if descriptor is not None:
                os.close(descriptor)
        self._own = self._host = None


def _first(paths: list[str]) -> int | None:
    """The first of these that can be read, and holds a count."""
    for path in paths:
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if _count(descriptor) is not None:
                return descriptor
            os.close(descriptor)
    return None


def _count(descriptor: int | None) -> int | None:
    with suppress(OSError):
        for line in os.pread(descriptor, _MAX_BYTES, 0).splitlines() if descriptor is not None else ():
            key, _, number = line.partition(b" ")
            if key == b"oom_kill" and number.strip().isdigit():
                return int(number)
    return None
