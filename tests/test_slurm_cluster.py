"""On a real Slurm: allocations of several kinds do a workflow's work. See scripts/testbed-slurm."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cliutil
import pytest
from cliutil import Lab, wait_until

from torc_spool import actions, allocations, slurm

TESTBED = Path(__file__).resolve().parent.parent / "scripts" / "testbed-slurm"
CANNOT = 77
DEADLINE_S = 180.0  # a guard against a hang, never a measure

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.xdist_group("cluster")]  # one cluster, one worker

lab = cliutil.lab


class Cluster:
    """The testbed, and how to talk to it."""

    def __init__(self, directory: Path) -> None:
        self.environ = {**os.environ, "TESTBED_SLURM_DIR": str(directory)}
        started = subprocess.run([TESTBED, "start"], env=self.environ, stderr=subprocess.PIPE, text=True, check=False)
        if started.returncode == CANNOT:
            pytest.skip(started.stderr.strip().splitlines()[-1])
        assert started.returncode == 0, started.stderr
        self.environ["SLURM_CONF"] = f"{directory}/etc/slurm.conf"

    def __call__(self, *words: str) -> str:
        return subprocess.run(words, env=self.environ, capture_output=True, text=True, check=True, timeout=60).stdout

    def stop(self) -> None:
        subprocess.run([TESTBED, "stop"], env=self.environ, check=True)

    def await_end(self, *job_ids: str) -> None:
        wait_until(
            lambda: not self("squeue", "--noheader", "--format=%A", "--jobs=" + ",".join(job_ids)).strip(),
            f"allocations {job_ids} have ended",
            DEADLINE_S,
        )


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    found = Cluster(tmp_path_factory.mktemp("slurm"))
    yield found
    found.stop()


def schedule(lab: Lab, cluster: Cluster, *words: object) -> list[str]:
    """The allocations that a call of schedule-nodes has submitted."""
    lab.env["SLURM_CONF"] = cluster.environ["SLURM_CONF"]
    return lab.torc("slurm", "schedule-nodes", 1, *words).stdout.split()


def output(lab: Lab, name: str) -> str:
    path = lab.job(name)["stdout"]
    assert path is not None
    return Path(path).read_text().strip()


def held(first: str) -> str:
    """A job that says where it runs; its first attempt goes on with a command, and never ends by itself."""
    return (
        "echo $SLURMD_NODENAME > at.$TORC_ATTEMPT_ID.tmp; mv at.$TORC_ATTEMPT_ID.tmp at.$TORC_ATTEMPT_ID; "
        f"[ $TORC_ATTEMPT_ID -gt 1 ] || {{ {first}; while :; do sleep 0.1; done; }}"
    )


SMALL = {"name": "small", "account": "proj", "partition": "debug", "walltime": "00:05:00", "cpus_per_task": 2}


def test_several_allocations_drain_many_short_jobs(lab: Lab, cluster: Cluster) -> None:
    lab.submit(*["echo $SLURM_JOB_ID"] * 200, slurm_schedulers=[SMALL])
    cluster.await_end(*schedule(lab, cluster, "--num-hpc-jobs", 3))
    assert set(lab.states().values()) == {"completed"}
    lab.check()


def test_work_cut_short_by_the_walltime_is_resumed_in_a_second_allocation(lab: Lab, cluster: Cluster) -> None:
    go_on = "[ -e saved ] && { echo resumed; exit 0; }; trap 'touch saved; exit 3' TERM; while :; do sleep 0.1; done"
    lab.submit(
        {"name": "long", "command": go_on, "supports_termination": True},
        slurm_schedulers=[{**SMALL, "walltime": 1}],
    )
    cluster.await_end(*schedule(lab, cluster))
    row = lab.jobs()["long"]
    assert (row["status"], row["reason"]) == ("terminated", "the walltime of the allocation ended")
    lab.torc("retry", 1, "long")
    cluster.await_end(*schedule(lab, cluster))
    assert lab.states() == {"long": "completed"}
    assert output(lab, "long") == "resumed"
    lab.check()


def test_jobs_on_a_gpu_node_have_a_device_each(lab: Lab, cluster: Cluster) -> None:
    gate = "touch here.$TORC_JOB_NAME; until [ -e here.a ] && [ -e here.b ]; do sleep 0.1; done"
    command = f"echo $CUDA_VISIBLE_DEVICES; {gate}"
    needs = {"resource_requirements": "gpu", "command": command}
    lab.submit(
        {"name": "a", **needs},
        {"name": "b", **needs},
        resource_requirements=[{"name": "gpu", "num_gpus": 1}],
        slurm_schedulers=[{"name": "gpu", "partition": "gpu", "gres": "gpu:2", "cpus_per_task": 2}],
    )
    cluster.await_end(*schedule(lab, cluster))
    assert {output(lab, "a"), output(lab, "b")} == {"0", "1"}


def test_each_node_of_an_allocation_has_a_runner(lab: Lab, cluster: Cluster) -> None:
    """What Slurm tells the script before the end hurts no job; what scancel sends to all of them is their notice."""
    here = "touch here.$TORC_JOB_NAME; until [ -e here.a ] && [ -e here.b ] && [ -e go ]; do sleep 0.1; done"
    save = "trap 'touch saved; exit 0' TERM; while :; do sleep 0.1; done"
    lab.submit(
        *({"name": name, "command": f"{here}; echo $SLURMD_NODENAME"} for name in ("a", "b")),
        {"name": "c", "command": "exec sleep 1000", "depends_on": ["a"]},
        {"name": "d", "command": save, "depends_on": ["b"], "supports_termination": True},
        slurm_schedulers=[{"name": "two", "partition": "debug", "nodes": 2, "exclusive": True, "walltime": 5}],
    )
    (number,) = schedule(lab, cluster, "--start-one-worker-per-node", "--max-parallel-jobs", 1)
    wait_until(lambda: {"here.a", "here.b"} <= set(os.listdir(lab.cwd)), "a job runs on each node", DEADLINE_S)
    cluster("scancel", "--batch", "--signal=USR1", number)
    (lab.cwd / "go").touch()
    lab.await_states(a="completed", b="completed", c="running", d="running")
    assert {output(lab, "a"), output(lab, "b")} == {"c1", "c2"}
    cluster("scancel", number)
    cluster.await_end(number)
    assert (lab.cwd / "saved").exists()
    lab.torc("recover", 1)
    assert [(lab.job(name)["status"], lab.job(name)["attempt"]) for name in "cd"] == [("ready", 2), ("ready", 2)]
    lab.check()


def test_an_account_that_is_refused_is_said_in_slurms_words(lab: Lab, cluster: Cluster) -> None:
    lab.submit("true", slurm_schedulers=[SMALL])
    lab.env["SLURM_CONF"] = cluster.environ["SLURM_CONF"]
    said = lab.torc("slurm", "schedule-nodes", 1, "--account", "theirs", code=2).sentence()
    assert "Invalid account or account/partition combination specified; name one of yours: --account" in said


@pytest.mark.parametrize("name", ["a b", "it's", 'say "x"', "100%j", "a;b #$HOME*"])
def test_paths_mean_themselves_to_slurm(tmp_path: Path, cluster: Cluster, name: str) -> None:
    (tmp_path / name).mkdir()
    lab = Lab(tmp_path / name)
    lab.submit("pwd", slurm_schedulers=[SMALL])
    directory = lab.base / f"out {name}"
    (number,) = schedule(lab, cluster, "--output-dir", directory)
    cluster.await_end(number)
    assert output(lab, "j1") == str(lab.cwd)
    assert "1 completed" in (directory / f"slurm_output_wf1_sl{number}.e").read_text()
    lab.close()


def test_what_a_crashed_node_held_runs_again_elsewhere(lab: Lab, cluster: Cluster) -> None:
    lab.submit(*["echo $SLURMD_NODENAME"] * 10, {"name": "held", "command": held(":")}, slurm_schedulers=[SMALL])
    (first,) = schedule(lab, cluster, "--max-parallel-jobs", 4)
    wait_until(lambda: (lab.cwd / "at.1").exists(), "the job runs", DEADLINE_S)
    node = (lab.cwd / "at.1").read_text().strip()
    cluster(str(TESTBED), "crash", node)
    try:
        # Slurm gives the node up, and puts the allocation back under the same number
        wait_until(
            lambda: cluster("squeue", "--noheader", f"--jobs={first}", "--Format=RestartCnt").strip() == "1",
            "the allocation was requeued",
            DEADLINE_S,
        )
        cluster.await_end(*schedule(lab, cluster))
    finally:
        cluster(str(TESTBED), "revive", node)
    assert set(lab.states().values()) == {"completed"}
    lost, again = lab.job("held")["attempts"]
    assert lost["outcome"] is None
    assert (again["attempt"], again["outcome"]) == (2, "completed")
    assert (lab.cwd / "at.2").read_text().strip() != node
    assert f"allocation {first} was requeued since" in lost["reason"] or "is gone from" in lost["reason"]
    lab.check()
    assert f"allocation {first} was PENDING, canceled" in lab.torc("cancel", 1).stderr
    cluster.await_end(first)


def test_jobs_of_a_canceled_allocation_run_again_in_the_next(lab: Lab, cluster: Cluster) -> None:
    lab.submit({"name": "held", "command": held("trap '' TERM")}, slurm_schedulers=[SMALL])
    (first,) = schedule(lab, cluster, "--grace", 60)
    wait_until(lambda: (lab.cwd / "at.1").exists(), "the job runs", DEADLINE_S)
    cluster("scancel", first)
    cluster.await_end(first)
    shown = lab.torc("recover", 1, "--dry-run").stdout
    assert f"allocation {first} has ended, as squeue says: CANCELLED" in shown or "is gone from" in shown
    assert "requeue" in shown
    cluster.await_end(*schedule(lab, cluster))
    assert lab.states() == {"held": "completed"}
    assert [attempt["outcome"] for attempt in lab.job("held")["attempts"]] == [None, "completed"]
    lab.check()


def test_allocations_are_shown_and_canceled_with_their_workflow(lab: Lab, cluster: Cluster) -> None:
    later = {**SMALL, "name": "later", "begin": "now+1hour"}
    lab.submit({"name": "held", "command": held(":")}, slurm_schedulers=[SMALL, later])
    (running,) = schedule(lab, cluster, "--scheduler", "small")
    (pending,) = schedule(lab, cluster, "--scheduler", "later")
    wait_until(lambda: (lab.cwd / "at.1").exists(), "the job runs", DEADLINE_S)
    first, second = lab.torc("slurm", "status", 1, "-f", "json").json
    assert (first["job_id"], first["state"], first["said_by"]) == (running, "RUNNING", "squeue")
    assert first["nodes"] == (lab.cwd / "at.1").read_text().strip()
    assert 0 < first["time_left_s"] <= 300
    assert first["jobs"] == {"pending": 0, "running": 1}
    assert [runner["state"] for runner in first["runners"]] == ["alive"]
    assert (second["job_id"], second["state"], second["reason"]) == (pending, "PENDING", "BeginTime")
    assert (second["runners"], second["nodes"], second["time_left_s"]) == ([], None, None)
    shown = lab.torc("slurm", "status", 1).stdout
    assert all(word in shown for word in (running, "RUNNING", "1 alive", pending, "PENDING", "BeginTime", "none"))
    said = lab.torc("cancel", 1).stderr.splitlines()
    assert said == [f"allocation {pending} was PENDING, canceled", f"allocation {running} was RUNNING, canceled"]
    cluster.await_end(running, pending)
    assert lab.states() == {"held": "canceled"}
    lab.check()


def ended(lab: Lab, cluster: Cluster) -> list[str]:
    """All allocations of the workflow, once they have ended; one may ask for another."""
    known: list[str] = []
    while known != (now := [each.job_id for each in allocations.recorded(lab.store())]):
        known = now
        cluster.await_end(*known)
    return known


BIG = {"name": "big", "partition": "debug", "nodes": 2, "exclusive": True, "walltime": "00:05:00"}


def test_a_job_of_two_nodes_spreads_itself_over_them(lab: Lab, cluster: Cluster) -> None:
    spread = (
        'srun --nodes="$TORC_NUM_NODES" --nodelist="$TORC_NODELIST" --ntasks-per-node=1 '
        "bash -c 'echo $SLURMD_NODENAME'"
    )
    lab.submit(
        {"name": "two", "command": spread, "resource_requirements": "two"},
        {"name": "one", "command": "echo $SLURMD_NODENAME"},
        resource_requirements=[{"name": "two", "num_nodes": 2, "num_cpus": 1}],
        slurm_schedulers=[BIG],
    )
    cluster.await_end(*schedule(lab, cluster))
    assert (sorted(output(lab, "two").split()), output(lab, "one")) == (["c1", "c2"], "c1")
    lab.check()


def test_jobs_bound_to_schedulers_run_there_and_nowhere_else(lab: Lab, cluster: Cluster) -> None:
    """Two kinds of allocations, and a runner of queue depth on this host, at the same time."""
    gate = lab.gate()
    where = "echo ${SLURMD_NODENAME:-here}"
    lab.submit(
        *({"name": f"gpu{number}", "command": where, "scheduler": "gpu_cluster"} for number in range(6)),
        *({"name": f"mem{number}", "command": where, "scheduler": "highmem_cluster"} for number in range(6)),
        *({"name": f"any{number}", "command": f"{gate.wait}; {where}"} for number in range(8)),
        slurm_schedulers=[
            {"name": "gpu_cluster", "partition": "gpu", "cpus_per_task": 2},
            {"name": "highmem_cluster", "partition": "highmem", "cpus_per_task": 2},
        ],
    )
    here = lab.start("run", 1, "--max-parallel-jobs", 2)
    numbers = schedule(lab, cluster, "--scheduler", "gpu_cluster")
    numbers += schedule(lab, cluster, "--scheduler", "highmem_cluster")
    wait_until(lambda: len(gate.arrived()) == 6, "runners of all kinds have flexible jobs", DEADLINE_S)
    gate.open()
    cluster.await_end(*numbers)
    here.wait(None)
    assert set(lab.states().values()) == {"completed"}
    ran = {name: output(lab, name) for name in lab.states()}
    assert {ran[f"gpu{number}"] for number in range(6)} == {"g1"}
    assert {ran[f"mem{number}"] for number in range(6)} == {"m1"}
    assert {ran[f"any{number}"] for number in range(8)} == {"g1", "m1", "here"}
    lab.check()


def test_an_action_asks_for_the_nodes_of_the_next_stage(lab: Lab, cluster: Cluster) -> None:
    lab.submit(
        {"name": "first", "command": "true", "scheduler": "small"},
        *(
            {"name": f"next{number}", "command": "echo $SLURM_JOB_ID", "scheduler": "more", "depends_on": ["first"]}
            for number in range(10)
        ),
        slurm_schedulers=[SMALL, {**SMALL, "name": "more"}],
        actions=[
            {"trigger_type": "on_workflow_start", "action_type": "schedule_nodes", "scheduler": "small"},
            {
                "trigger_type": "on_jobs_ready",
                "action_type": "schedule_nodes",
                "scheduler": "more",
                "num_allocations": 2,
                "job_name_regexes": ["next.*"],
            },
        ],
    )
    lab.env["SLURM_CONF"] = cluster.environ["SLURM_CONF"]
    lab.torc("slurm", "schedule-nodes", 1, "--actions")
    assert len(ended(lab, cluster)) == 3
    assert set(lab.states().values()) == {"completed"}
    assert [row["state"] for row in actions.rows(lab.store())] == ["done", "done"]
    keys = [each.key[-5:] for each in allocations.recorded(lab.store())]
    assert keys == ["-a1.1", "-a2.1", "-a2.1"]
    lab.check()


def test_what_slurm_has_been_asked_for_is_found_by_its_mark(lab: Lab, cluster: Cluster) -> None:
    lab.submit("true", slurm_schedulers=[SMALL])
    numbers = schedule(lab, cluster, "--num-hpc-jobs", 2)
    key = allocations.recorded(lab.store())[0].key
    for _ in ("while they are there", "when they have ended"):
        found = slurm.submitted("torc-spool-1-small", f"torc-spool:1:{key}", cluster.environ)
        assert found == numbers
        cluster.await_end(*numbers)
    assert slurm.submitted("torc-spool-1-small", "torc-spool:1:other", cluster.environ) == []
