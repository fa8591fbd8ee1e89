"""Order among those who claim. The rename decides; this lock only keeps a crowd from racing.

It is waited for a bounded time, then the claim goes on without it. A lock that cannot be had at all (frozen
holder, filesystem without locks) is not asked for again for a while, so that it costs order, and not time.

On a network filesystem the calls are made by another thread: on NFS 3 none of them returns, not even one that is not to
wait, while the server's lockd cannot be reached (a firewall, a connection that hangs). A thread that does not come back
keeps the descriptor, and the lock is not asked for any more.
"""

from __future__ import annotations

import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from torc_spool import fsops, mounts

WAIT_S = 5.0
HUNG_S = 10.0  # a call that takes longer than this beyond the wait does not come back
PAUSE_S = 60.0
_FIRST_POLL_S = 0.0005
_LAST_POLL_S = 0.05


class ClaimLock:
    """The lock of one workflow, on one descriptor that stays open: a claim then costs no call with a path."""

    def __init__(
        self,
        path: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._path, self._clock, self._sleep = path, clock, sleep
        self._descriptor: int | None = None
        self._is_network: bool | None = None
        self._not_before = 0.0
        self.spread_s = 0.0  # between two tries, where many wait: each is a call

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Hold it if it can be had in time; the value says whether it is held."""
        got = self._acquire()
        try:
            yield got
        finally:
            if got:
                self._release()

    def forgo(self) -> None:
        """Not to be asked for: it is known to exclude nobody."""
        self._not_before = math.inf

    def close(self) -> None:
        if self._descriptor is not None:
            with suppress(OSError):  # nothing was written to it
                os.close(self._descriptor)
            self._descriptor = None

    def _release(self) -> None:
        from filelock import unlock_descriptor

        def unlock(descriptor: int) -> bool:
            try:
                unlock_descriptor(descriptor)
            except OSError:
                return False
            return True

        if self._descriptor is not None and not self._aside(unlock, self._descriptor):
            self.close()  # which lets go of it too

    def _acquire(self) -> bool:
        if self._clock() < self._not_before:
            return False
        if self._descriptor is None:
            self._descriptor = fsops.open_lock(self._path)
        got = self._descriptor is not None and self._aside(self._wait, self._descriptor)
        if not got:
            self._not_before = max(self._not_before, self._clock() + PAUSE_S)
        return got

    def _aside(self, call: Callable[[int], bool], descriptor: int) -> bool:
        """What the call says; False where it does not come back."""
        if self._is_network is None:
            self._is_network = mounts.is_network(self._path)
        if not self._is_network:
            return call(descriptor)
        said: list[bool] = []
        given_up, turn = threading.Event(), threading.Lock()

        def make() -> None:
            answer = call(descriptor)
            with turn:
                said.append(answer)
                if given_up.is_set():
                    os.close(descriptor)  # and what was got so late is let go

        thread = threading.Thread(target=make, daemon=True)
        thread.start()
        thread.join(WAIT_S + HUNG_S)
        with turn:
            if said:
                return said[0]
            given_up.set()
        self._descriptor, self._not_before = None, math.inf
        return False

    def _wait(self, descriptor: int) -> bool:
        from filelock import lock_descriptor  # not needed by a runner that is alone

        deadline, pause = self._clock() + WAIT_S, max(_FIRST_POLL_S, self.spread_s / 2)
        try:
            while not lock_descriptor(descriptor, blocking=False):
                if self._clock() >= deadline:
                    return False
                # jitter, and short polls at first: at one fixed long interval a waiter may never win
                self._sleep(pause * random.uniform(0.5, 1.5))
                pause = min(pause * 1.5, max(_LAST_POLL_S, self.spread_s))
        except OSError:
            return False  # no locks here, or none left
        return True
