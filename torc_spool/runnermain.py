"""The process of a runner that `ownprocess` starts: options come as JSON, the result goes to stdout as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from torc_spool import allocation, arrival, capacity, doctor
from torc_spool import lease as leases
from torc_spool.errors import TorcSpoolError
from torc_spool.runner import Options, Runner
from torc_spool.spool import Spool
from torc_spool.streak import SICK_WITHIN_S


def main(given: str) -> int:
    """Run, and report; the exit code is that of `torc-spool run`."""
    request = json.loads(given)
    try:
        spool = Spool(request["spool"], allow_shared=request["allow_shared"])
        budget = doctor.budget(spool.path, None)
        begun = arrival.await_turn(spool.path, budget, is_watched=os.isatty(2), tell=_say)
        try:
            options = _options(_settings(spool, request["workflow_id"]), **request["options"])
            runner = Runner(spool, options, workflow_id=request["workflow_id"], tell=_say, begun=begun)
            result = runner.run()
        finally:
            begun()
    except TorcSpoolError as error:
        _report({"error": type(error).__name__, "message": str(error), "facts": vars(error)})
        return error.exit_code
    _report(
        {
            "exit_code": result.exit_code,
            "workflow_id": request["workflow_id"],
            "recorded": {str(outcome): count for outcome, count in result.recorded.items()},
            "left": [
                {"workflow_id": number, "id": left.id, "name": left.name, "reason": left.reason}
                for number, left in result.left
            ],
            "set_aside": result.set_aside,
        }
    )
    return result.exit_code


def _settings(spool: Spool, workflow_id: int | None) -> Mapping[str, Any]:
    """What the workflow says of runners in allocations."""
    return spool.open(workflow_id).workflow.settings if workflow_id and allocation.job_id() else {}


def _options(
    settings: Mapping[str, Any],
    *,
    num_cpus: int | None = None,
    memory_gb: float | None = None,
    num_gpus: int | None = None,
    num_nodes: int | None = None,
    time_limit: float | None = None,
    wait_for_new_jobs: float | None = None,
    grace: float = 10.0,
    lease: float | None = None,
    sick_after: int | None = None,
    sick_within: float = SICK_WITHIN_S,
    **same: Any,
) -> Options:
    has = capacity.given(
        allocation.detect(), num_cpus=num_cpus, memory_gb=memory_gb, num_gpus=num_gpus, num_nodes=num_nodes
    )
    limit = allocation.time_limit(time_limit, settings, _say)
    return Options(
        capacity=has,
        time_limit_s=limit.seconds,
        end_reason=limit.reason,
        walltime_s=limit.walltime_s,
        wait_for_new_jobs_s=allocation.patience(settings) if wait_for_new_jobs is None else wait_for_new_jobs,
        grace_s=grace,
        lease_s=leases.of_environment() if lease is None else lease,
        sick_after=sick_after,
        sick_within_s=sick_within,
        **same,
    )


def _say(line: str) -> None:
    """Nothing fails because nobody listens any more."""
    with contextlib.suppress(OSError):
        os.write(2, (line + "\n").encode(errors="backslashreplace"))


def _report(what: dict[str, Any]) -> None:
    with contextlib.suppress(OSError), open(1, "w", closefd=False) as file:
        json.dump(what, file)


if __name__ == "__main__":
    # by this signal the program stops us, and it may have been started with it ignored (`program &` in a script)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(sys.argv[1]))
