"""When a runner is known to be dead: a pure decision. Unknown means alive."""

from __future__ import annotations

import pytest

from torc_spool.evidence import Here, of_host
from torc_spool.model import RunnerRecord

HERE = Here("node1", "boot-a", "pid:[1]")
LEASE_S = 240.0


def death(here: Here, record: Here, *, age: float | None = None, runs: bool = False) -> str | None:
    runner = RunnerRecord(
        name="node1-7-00000000",
        host=record.host,
        pid=7,
        pid_start="99",
        boot_id=record.boot_id,
        pid_namespace=record.pid_namespace,
        lease_s=LEASE_S,
    )
    found = of_host(runner, here, heartbeat_age_s=age, is_running=lambda pid, start: runs and (pid, start) == (7, "99"))
    return found and found.evidence


def test_a_process_that_is_gone_from_this_host_is_dead_however_young_its_heartbeat() -> None:
    assert death(HERE, HERE, age=0.0) == "process 7 is gone from node1"


def test_a_process_that_runs_is_alive_however_old_its_heartbeat() -> None:
    assert death(HERE, HERE, age=1e9, runs=True) is None


@pytest.mark.parametrize(
    ("here", "record"),
    [
        pytest.param(HERE, HERE._replace(host="node2"), id="another host"),
        pytest.param(HERE, HERE._replace(pid_namespace="pid:[2]"), id="another pid namespace"),
        pytest.param(HERE._replace(boot_id=""), HERE, id="our boot is unknown"),
        pytest.param(HERE, HERE._replace(boot_id=""), id="its boot is unknown"),
        pytest.param(HERE._replace(boot_id=""), HERE._replace(boot_id=""), id="both boots are unknown"),
        pytest.param(
            HERE._replace(pid_namespace=""), HERE._replace(pid_namespace=""), id="both namespaces are unknown"
        ),
    ],
)
def test_what_is_unknown_or_elsewhere_is_alive(here: Here, record: Here) -> None:
    assert death(here, record, age=1e9) is None


@pytest.mark.parametrize(("age", "dead"), [(None, False), (LEASE_S, False), (LEASE_S + 1, True)])
def test_after_a_restart_of_the_host_the_lease_must_have_run_out_too(age: float | None, dead: bool) -> None:
    assert (death(HERE, HERE._replace(boot_id="boot-b"), age=age) is not None) is dead
