"""The library's own submit, runner and idle runner in a process of their own, with the file calls counted.

Run as a script: `counted.py submit SPOOL SPEC`, `counted.py run SPOOL ID`, `counted.py idle SPOOL BEGIN WINDOW`.
Prints a JSON object: the calls by kind.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

from torc_spool import capacity, fsops
from torc_spool import spec as specs
from torc_spool.runner import Options, Runner
from torc_spool.spool import Spool
from torc_spool.submission import Verbatim

AT_A_TIME = 8


def submit(spool: str, spec: str) -> Counter[str]:
    parsed, data = specs.load(spec)
    Spool(spool).submit(parsed, Verbatim(data))
    return fsops.calls


def run(spool: str, workflow_id: str) -> Counter[str]:
    options = Options(capacity.detect(), max_parallel_jobs=AT_A_TIME)
    result = Runner(Spool(spool), options, workflow_id=int(workflow_id)).run()
    if result.exit_code != 0:
        sys.exit(f"the runner ended with {result.exit_code}")
    return fsops.calls


def idle(spool: str, begin: str, window: str) -> Counter[str]:
    """The calls of an idle runner in a time that begins so many seconds after its start."""
    counted: Counter[str] = Counter()

    def watch() -> None:
        time.sleep(float(begin))
        before = fsops.calls.copy()
        time.sleep(float(window))
        counted.update(fsops.calls.copy() - before)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    Runner(Spool(spool), Options(capacity.detect(), wait_for_new_jobs_s=1e6)).run()
    return counted


if __name__ == "__main__":
    actions: dict[str, Callable[..., Counter[str]]] = {"submit": submit, "run": run, "idle": idle}
    json.dump(actions[sys.argv[1]](*sys.argv[2:]), sys.stdout)
