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
        self._rests_until = self._since  # nothing is looked for before

    def due(self) -> bool:
        """Whether it is time to look. The look counts as made only after `slower` or `hurry`."""
        return self._clock() >= self.next_at

    def now(self) -> None:
        """Look at once."""
        self._interval = self._first
        self.at = self._clock()

    @property
    def next_at(self) -> float:
        """When it is time to look."""
        return max(self.at, self._rests_until)

    @property
    def is_open(self) -> bool:
        """Whether there is nothing for which it rests."""
        return self._clock() >= self._rests_until

    def rest(self, seconds: float) -> bool:
        """Look at nothing for so long, then at once. False where that is no time at all."""
        if seconds > 0:
            self._interval = self._first
            self._rests_until = self.at = self._clock() + seconds
        return seconds > 0

    def soon(self) -> None:
        """Look as soon as the floor allows."""
        self._interval = self._first
        self.at = self._clock() + self.least

    def hurry(self) -> None:
        """Something has happened: look again after the shortest interval, or when it was due anyway."""
        self._interval = max(self._first, self.least)
        self.at = min(max(self.at, self._clock()), self._clock() + self._interval)

    def slower(self, last: float) -> None:
        """Nothing has happened: wait twice as long as the last time, at most `last`."""
        self._interval = max(min(self._interval * 2, last), self.least)
        self.at = self._clock() + self._interval
