"""When to look again: soon after something has happened, ever more rarely while nothing does."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """A poll that backs off. Times in seconds, by a monotonic clock."""

    def __init__(self, first: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._first, self._clock = first, clock
        self.least = 0.0  # a floor under all intervals
        self._interval = first
        self._since = clock()
        self.at = self._since + first

    def due(self) -> bool:
        """Whether it is time to look. The look counts as made only after `slower` or `hurry`."""
        return self._clock() >= self.at

    def now(self) -> None:
        """Look at once."""
        self._interval = self._first
        self.at = self._clock()

    def hurry(self) -> None:
        """Something has happened: look again after the shortest interval, or when it was due anyway."""
        self._interval = max(self._first, self.least)
        self.at = min(max(self.at, self._clock()), self._clock() + self._interval)

    def slower(self, last: float) -> None:
        """Nothing has happened: wait twice as long as the last time, at most `last`."""
        self._interval = max(min(self._interval * 2, last), self.least)
        self.at = self._clock() + self._interval
