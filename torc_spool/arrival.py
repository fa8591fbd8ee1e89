"""Runners that come at one moment begin one after the other: each leaves a mark, and waits for who came before.

What one asks before its first job is little, and what a thousand ask at once is more than a server should be asked.
None of them knows of the others until it is there itself; so each tells first that it comes, with a file of which the
name is all, and counts the files of those before it: two calls. Who comes alone waits for nobody.

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
    tell: Callable[[str], None] = lambda _line: None,
) -> None:
    """Wait until it is this runner's turn to begin. `calls_per_s` tells the budget, and is asked only by who waits."""

    def let_begin(before: int) -> None:
        if before:
            seconds = crowd.turn_s(before, calls_per_s())
            if seconds >= _TOLD_S:
                they = "1 runner starts" if before == 1 else f"{before} runners start"
                tell(f"{they} just before this one, which begins in {seconds:.0f} s")
            time.sleep(seconds)

    let_begin(crowd.rank(environ))
    if not mounts.is_network(spool):
        return
    mark = naming.new_arrival(time.time())
    try:
        fsops.create(f"{spool}/{mark}")
    except StorageError:
        return  # there is no spool yet, or nothing can be made in it: what comes next says so
    try:
        let_begin(_marks_before(spool, mark))
    finally:
        with suppress(StorageError):
            fsops.remove_file(f"{spool}/{mark}")


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
