"""How long a runner counts as alive without a sign of life, and by which clocks it knows that of itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

from torc_spool.errors import UsageError

STALENESS_S = 60.0  # what a network filesystem may keep from a reader
DEFAULT_S = 240.0
VARIABLE = "TORC_SPOOL_LEASE"  # in the environment: of all runners that inherit it, those of allocations too
_BEATS = 3  # so many signs of life fit in what is left of a lease
_LONGEST_BEAT_S, _SHORTEST_BEAT_S = 60.0, 5.0
SHORTEST_S = STALENESS_S + _BEATS * _SHORTEST_BEAT_S
_OUTAGE_S = SHORTEST_S - _SHORTEST_BEAT_S  # what keeps everybody from a sign of life for so long can end a lease
_RETURN_S = _LONGEST_BEAT_S + STALENESS_S  # until all who live have been heard again after that
_JUDGES_S = 600.0  # however often one is away, between two times of absence it judges for so long


def heartbeat_s(lease_s: float) -> float:
    """How often a runner with this lease gives a sign of life, in seconds."""
    return min(_LONGEST_BEAT_S, max(_SHORTEST_BEAT_S, (lease_s - STALENESS_S) / _BEATS))


def check(lease_s: float, option: str) -> float:
    """Raises UsageError for a lease that a runner which lives could outlast in silence."""
    if not SHORTEST_S <= lease_s < float("inf"):
        raise UsageError(
            f"{option}: a lease of {lease_s:g} s cannot be kept; give {SHORTEST_S:g} s or more: {_BEATS} heartbeats of "
            f"{_SHORTEST_BEAT_S:g} s, and {STALENESS_S:g} s that a network filesystem may be late"
        )
    return lease_s


def of_environment(environ: Mapping[str, str] = os.environ) -> float:
    """The lease of a runner that is given none. Raises UsageError."""
    text = environ.get(VARIABLE)
    try:
        return check(float(text), VARIABLE) if text else DEFAULT_S
    except ValueError:
        raise UsageError(f"{VARIABLE}: {text!r} is no number of seconds") from None


def clock() -> float:
    """Seconds, and those in which the machine was suspended count too (CLOCK_BOOTTIME is CLOCK_MONOTONIC plus them)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Lease:
    """What a process knows of its own lease, and whether it may judge that of others.

    It was away when it was frozen, or when the filesystem did not answer: then others have been silent too, for all
    that it can tell, and it waits until those who live have been heard again.
    """

    def __init__(self, lease_s: float, *, clock: Callable[[], float] = clock) -> None:
        self.lease_s, self.now = lease_s, clock
        self._beaten = clock()  # not later than the last sign of life
        self._signed: float | None = None  # the same in the filesystem's time
        self._back = -float("inf")  # when it judges again

    @property
    def lapsed(self) -> bool:
        """Whether others may take this process for dead, as far as its own clock tells: that of a frozen virtual
        machine stands still."""
        return self.now() - self._beaten >= self.lease_s

    @property
    def age_s(self) -> float:
        """Since the last sign of life."""
        return self.now() - self._beaten

    @property
    def judges(self) -> bool:
        """Whether the silence of others tells anything now."""
        return self.now() >= self._back

    def beat(self, began: float, signed: float) -> bool:
        """A sign of life was given: begun at `began` by the clock, at `signed` in the filesystem's time.

        False when the one before was longer ago than the lease, by either.
        """
        gap = max(began - self._beaten, 0.0 if self._signed is None else signed - self._signed)
        if gap >= _OUTAGE_S and self.now() >= self._back + _JUDGES_S:
            self._back = self.now() + _RETURN_S
        self._beaten, self._signed = began, signed
        return gap < self.lease_s
