"""Wait until a workflow is finished: cheap, backing-off looks at its directories."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from torc_spool import report
from torc_spool.errors import NotFound
from torc_spool.pace import Pace
from torc_spool.report import Row
from torc_spool.spool import nobody_works
from torc_spool.store import Store

FIRST_POLL_S = 0.1
LONGEST_POLL_S = 5.0


def wait(
    store: Store,
    spool_path: str,
    *,
    timeout_s: float | None = None,
    longest_poll_s: float = LONGEST_POLL_S,
    tell: Callable[[str], None] = lambda _line: None,
) -> Row:
    """The status of the workflow once every job has an outcome, or when the time is over: `finished` says which.

    Says so, once, when no runner is at work. Raises NotFound when the workflow is deleted meanwhile.
    """
    pace, ends_at, told = Pace(FIRST_POLL_S), math.inf if timeout_s is None else time.monotonic() + timeout_s, False
    while True:
        row = report.status(store)
        if row["finished"]:
            return row
        if not store.exists():
            raise NotFound(f"workflow {store.workflow.id} was deleted")
        if not told and not any(runner["state"] == "alive" for runner in row["runners"]):
            tell(nobody_works(store, spool_path))
            told = True
        if time.monotonic() >= ends_at:
            return row
        pace.slower(longest_poll_s)
        time.sleep(max(0.0, min(pace.at, ends_at) - time.monotonic()))
