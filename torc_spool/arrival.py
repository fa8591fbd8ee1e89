"""Runners that come at one moment begin one after the other: each leaves a mark, and waits for who came before.

What one asks before its first job is little, and what a thousand ask at once is more than a server should be asked.
None of them knows of the others until it is there itself; so each tells first that it comes, with a file of which the
name is all, and counts the files of those before it. The file stays until its maker has begun: those that come
meanwhile leave it time. The marks of a thousand are many calls, too: who has no place in a step of Slurm, and whom no
terminal watches, comes at a random moment.

On a local filesystem there is no crowd, and no mark. It is courtesy alone: a mark decides nothing about any job.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from torc_spool import crowd, fsops, mounts, naming
from torc_spool.errors import StorageError

_FORGOTTEN_S = 600.0  # whoever left a mark that is older has most likely begun, or is dead
_TOLD_S = 2.0
_SWEPT = 8  # so many marks of the dead one runner removes


def await_turn(
    spool: str,
    calls_per_s: Callable[[], float],
    *,
    environ: Mapping[str, str] = os.environ,
    is_watched: bool = True,
    tell: Callable[[str], None] = lambda _line: None,
) -> Callable[[], None]:
    """Wait until it is this runner's turn to begin. Call what it returns once it has begun, or will not.

    `calls_per_s` tells the budget, and is asked only by who waits. `is_watched`: somebody sits before it.
    """
    rank, crowd_s = crowd.rank(environ), 0.0
    if rank:
        _let_begin(rank, crowd.turn_s(rank, calls_per_s()), tell)
    if not mounts.is_network(spool):
        return _nothing
    if not rank and not is_watched:
        crowd_s = crowd.marking_s(calls_per_s())
        _come_at_random(crowd_s, tell)
    mark = naming.new_arrival(time.time())
    try:
        fsops.create(f"{spool}/{mark}")
    except StorageError:
        return _nothing  # there is no spool yet, or nothing can be made in it: what comes next says so
    begun = _Mark(f"{spool}/{mark}").remove
    try:
        before = _marks_before(spool, mark)
        if before:
            # the marks of a crowd shall not come on top of what its first ones ask
            held_s = crowd_s if before >= crowd.HANDFUL else 0.0
            _let_begin(before, held_s + crowd.turn_s(before, calls_per_s()), tell)
    except BaseException:
        begun()
        raise
    return begun


class _Mark:
    """A file that tells of a runner that has not begun yet."""

    def __init__(self, path: str) -> None:
        self._path: str | None = path

    def remove(self) -> None:
        """At once, and only once."""
        path, self._path = self._path, None
        if path is not None:
            with suppress(StorageError):
                fsops.remove_file(path)


def _nothing() -> None:
    """No mark was left."""


def _let_begin(before: int, seconds: float, tell: Callable[[str], None]) -> None:
    if seconds >= _TOLD_S:
        they = "1 runner starts" if before == 1 else f"{before} runners start"
        tell(f"{they} just before this one, which begins in {seconds:.0f} s")
    time.sleep(seconds)


def _come_at_random(within_s: float, tell: Callable[[str], None]) -> None:
    seconds = random.uniform(0.0, within_s)
    if seconds >= _TOLD_S:
        tell(f"others may start at this moment: this runner begins in {seconds:.0f} s")
    time.sleep(seconds)


def _marks_before(spool: str, mark: str) -> int:
    """How many came before and have not begun, by a fresh listing. Removes some marks of the dead."""
    now = naming.parse_arrival(mark) or 0.0
    try:
        listed = fsops.entries(spool) or []
    except StorageError:
        return 0
    came = {name: at for name in listed if (at := naming.parse_arrival(name)) is not None}
    forgotten = [name for name, at in came.items() if at < now - _FORGOTTEN_S]
    for name in random.sample(forgotten, min(_SWEPT, len(forgotten))):
        with suppress(StorageError):
            fsops.remove_file(f"{spool}/{name}")
    return sum(name < mark for name in came) - len(forgotten)
