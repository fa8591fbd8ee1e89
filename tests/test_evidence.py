"""When a runner is known to be dead: a pure decision. Unknown means alive."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from torc_spool.errors import SlurmError
from torc_spool.evidence import Death, Here, in_question, life, of_allocation, of_host, of_own_allocation
from torc_spool.model import RunnerRecord
from torc_spool.squeue import UNKNOWN, Inquiry, Number, Seen, parse_sacct, parse_squeue

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


# --- the allocation of a runner

NODE = Here("n7", "boot-n", "pid:[3]")
OVER = (
    "COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "OUT_OF_MEMORY", "DEADLINE"
)  # fmt: skip
GOING_ON = (
    "PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "RESIZING", "REVOKED", "SPECIAL_EXIT",
    "A_NEW_WORD",
)  # fmt: skip


def in_allocation(**fields: Any) -> RunnerRecord:
    record = {
        "name": "n7-9-00000000",
        "host": NODE.host,
        "pid": 9,
        "pid_start": "1",
        "boot_id": NODE.boot_id,
        "pid_namespace": NODE.pid_namespace,
        "lease_s": LEASE_S,
        "started": 1000.0,
        "user": "ada",
        "slurm_job_id": "80",
        "slurm_cluster": "big",
        "slurm_node": "n7",
    }
    return RunnerRecord(**{**record, **fields})


def end(state: str, *, age: float | None = 10.0, **seen: Any) -> Death | None:
    said = Seen(**{"state": state, "said_by": "squeue", "restarts": 0, "user": "ada", "end": 5000.0, **seen})
    return of_allocation(in_allocation(), said, heartbeat_age_s=age, now=5010.0)


@pytest.mark.parametrize("state", OVER)
def test_a_runner_whose_allocation_has_ended_is_dead_however_young_its_heartbeat(state: str) -> None:
    death = end(state)
    assert death is not None
    assert death.evidence == f"allocation 80 has ended, as squeue says: {state}"
    assert death.walltime == ("allocation 80 reached its walltime" if state == "TIMEOUT" else None)


@pytest.mark.parametrize("state", GOING_ON)
def test_any_other_state_is_no_evidence(state: str) -> None:
    assert end(state, age=1e9) is None


def test_what_slurm_has_forgotten_is_dead_only_when_it_is_silent_too() -> None:
    assert end(UNKNOWN, age=None, user=None) is None
    assert end(UNKNOWN, age=LEASE_S, user=None) is None
    death = end(UNKNOWN, age=LEASE_S + 1, user=None)
    assert death is not None
    assert "not known to squeue any more, and the runner is silent for 241 s" in death.evidence


def test_an_allocation_of_another_user_or_of_another_time_is_not_the_runners() -> None:
    assert end("COMPLETED", user="bob") is None
    assert end("COMPLETED", end=600.0) is None
    assert end("COMPLETED", end=800.0) is not None  # clocks differ


def test_of_a_requeued_allocation_only_the_later_life_lives() -> None:
    for state in ("PENDING", "RUNNING", "CONFIGURING", "CANCELLED"):
        death = end(state, restarts=1)
        assert death is not None
        assert death.evidence == f"allocation 80 was requeued since, as squeue says (restart 1, {state})"
        again = Seen(state, "squeue", restarts=1, user="ada")
        later = of_allocation(in_allocation(slurm_restarts=1), again, heartbeat_age_s=1e9, now=5010.0)
        assert (later is None) == (state != "CANCELLED")
    assert end("COMPLETING", restarts=1) is None  # it may be at its last words


def test_a_runner_that_was_long_dead_at_the_walltime_was_not_ended_by_it() -> None:
    assert end("TIMEOUT", age=LEASE_S + 9) == Death(
        "allocation 80 has ended, as squeue says: TIMEOUT", "allocation 80 reached its walltime"
    )
    assert end("TIMEOUT", age=LEASE_S + 11) == Death("allocation 80 has ended, as squeue says: TIMEOUT")


def test_slurm_is_asked_of_runners_that_it_has_started_elsewhere() -> None:
    assert in_question(in_allocation(), HERE, is_dead=False) == Number("80", "big")
    assert in_question(in_allocation(slurm_node=None), HERE, is_dead=False) is None  # in the shell of salloc
    assert in_question(in_allocation(slurm_job_id=None), HERE, is_dead=False) is None
    assert in_question(in_allocation(slurm_job_id="80+1"), HERE, is_dead=False) is None
    assert in_question(in_allocation(), NODE, is_dead=False) is None  # it runs, as this host knows
    assert in_question(in_allocation(), NODE, is_dead=True) == Number("80", "big")


def own(**environ: str) -> Here:
    environ = {"SLURM_JOB_ID": "80", "SLURM_CLUSTER_NAME": "big", "SLURMD_NODENAME": "n8", **environ}
    return HERE._replace(slurm=life(environ))


def test_a_later_life_of_an_allocation_knows_that_the_earlier_one_is_over() -> None:
    assert of_own_allocation(in_allocation(), own(SLURM_RESTART_COUNT="1")) == Death(
        "allocation 80 was requeued since: this is its restart 1"
    )
    assert of_own_allocation(in_allocation(), own()) is None
    assert of_own_allocation(in_allocation(), own(SLURM_JOB_ID="81", SLURM_RESTART_COUNT="1")) is None
    assert of_own_allocation(in_allocation(), own(SLURM_CLUSTER_NAME="small", SLURM_RESTART_COUNT="1")) is None
    assert of_own_allocation(in_allocation(slurm_restarts=1), own(SLURM_RESTART_COUNT="1")) is None
    assert in_question(in_allocation(), own(), is_dead=False) is None  # it goes on: we are in it


# --- asking


class Slurm:
    """Answers, and counts how often it is asked; the clock goes as the test says."""

    def __init__(self, **states: str) -> None:
        self.states, self.asked, self.now, self.is_up = states, [], 0.0, True
        self.inquiry = Inquiry(self.ask, cluster=lambda: "big", clock=lambda: self.now)

    def ask(self, job_ids: Collection[str], cluster: str | None) -> dict[str, Seen]:
        self.asked.append((sorted(job_ids), cluster))
        if not self.is_up:
            raise SlurmError("squeue", "did not answer within 10 s")
        return {job: Seen(self.states[f"job{job}"], "squeue") for job in job_ids}

    def about(self, *numbers: Number) -> dict[Number, Seen]:
        return self.inquiry.about(numbers)


def test_one_call_tells_of_all_and_holds_for_a_minute() -> None:
    slurm = Slurm(job1="RUNNING", job2="FAILED", job3="RUNNING")
    one, two, three = Number("1", "big"), Number("2"), Number("3")
    assert {number: seen.state for number, seen in slurm.about(one, two).items()} == {one: "RUNNING", two: "FAILED"}
    slurm.now = 59.0
    assert list(slurm.about(one, three)) == [one]  # of the other nothing is known yet
    assert slurm.asked == [(["1", "2"], None)]
    slurm.now = 60.0
    assert list(slurm.about(one, three)) == [one, three]
    assert slurm.asked[1:] == [(["1", "2", "3"], None)]
    assert slurm.about() == {}
    slurm.now = 3600.0
    assert list(slurm.about(three)) == [three]
    assert slurm.asked[2:] == [(["3"], None)]


def test_of_several_workflows_none_is_forgotten() -> None:
    slurm = Slurm(job1="RUNNING", job2="RUNNING")
    one, two = Number("1"), Number("2")
    for minute in range(3):
        slurm.now = 60.0 * minute
        slurm.about(one)
        assert list(slurm.about(two)) == ([two] if minute else [])
    assert len(slurm.asked) == 3


def test_another_cluster_is_asked_by_its_name() -> None:
    slurm = Slurm(job1="RUNNING")
    here, there = Number("1", "big"), Number("1", "small")
    assert set(slurm.about(here, there)) == {here, there}
    assert slurm.asked == [(["1"], None), (["1"], "small")]


def test_who_does_not_answer_is_asked_ever_more_rarely() -> None:
    slurm = Slurm(job1="RUNNING")
    slurm.is_up = False
    times = []
    for second in range(0, 4000, 10):
        slurm.now, before = float(second), len(slurm.asked)
        assert slurm.about(Number("1")) == {}
        times += [second] if len(slurm.asked) > before else []
    assert times == [0, 60, 180, 420, 900, 1800, 2700, 3600]
    assert slurm.inquiry.trouble is not None
    slurm.is_up, slurm.now = True, 5000.0
    assert slurm.about(Number("1"))
    assert slurm.inquiry.trouble is None


def test_lines_of_squeue_are_read_by_their_widths() -> None:
    widths = (20, 20, 12, 24, 24, 24, 60, 60, 400, 200, 400)
    running = ("7", "RUNNING", "2", "1000", "4600", "59:59", "ada", "None", "c[1-2]", "a name | é", "torc-spool:1:ab")
    waiting = ("8", "PENDING", "0", "N/A", "N/A", "1:00:00", "ada", "(Priority, QOS)", "", "n", "(null)")
    lines = ["".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in (running, waiting)]
    found = parse_squeue("CLUSTER: big\n" + "\n".join(lines) + "\n")
    assert found == {
        "7": Seen(
            "RUNNING", "squeue", 2, 1000.0, 4600.0, "59:59", "ada", None, "c[1-2]", "a name | é", "torc-spool:1:ab"
        ),
        "8": Seen("PENDING", "squeue", 0, None, None, "1:00:00", "ada", "(Priority, QOS)", None, "n", None),
    }


def test_lines_of_sacct_are_read() -> None:
    found = parse_sacct("7|CANCELLED by 1000|1000|2000|ada|c1\n8|RUNNING|1000|Unknown|ada|c2\n8.batch|x\n\n")
    assert found == {
        "7": Seen("CANCELLED", "sacct", start=1000.0, end=2000.0, user="ada", nodes="c1"),
        "8": Seen("RUNNING", "sacct", start=1000.0, user="ada", nodes="c2"),
    }
