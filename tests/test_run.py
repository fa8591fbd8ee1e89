"""Runners as processes: what jobs get, how their trees end, and who runs what in which order."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
from pathlib import Path

import cliutil
import pytest
from cliutil import Lab, gone, pid_in, wait_until
from runtools import REQUIREMENTS, job, output, slow

lab = cliutil.lab


# --- what a job gets


def test_a_job_gets_its_directory_its_environment_and_nothing_else(lab: Lab) -> None:
    gate = lab.gate()
    show = "pwd; env; echo stdin=$(readlink /proc/self/fd/0); ls /proc/self/fd; echo parent=$PPID"
    lab.submit({"name": "a b/ä", "command": f"{show}; {gate.wait}".replace("$TORC_JOB_NAME", "here")})
    with contextlib.ExitStack() as stack:
        leaked = stack.enter_context(open(lab.base / "leaked", "w"))
        elsewhere = lab.base / "elsewhere"
        elsewhere.mkdir()
        runner = lab.start("run", 1, cwd=elsewhere, env={"MINE": "1"}, pass_fds=[leaked.fileno()])
    gate.await_jobs("here")
    lab.pid("a b/ä")
    row = lab.job("a b/ä")
    # the output goes from the job to its file, and not through the runner
    assert os.readlink(f"/proc/{row['pid']}/fd/1") == row["stdout"]
    assert os.readlink(f"/proc/{row['pid']}/fd/2") == row["stderr"]
    assert os.getpgid(row["pid"]) == row["pid"] != os.getpgid(runner.pid)
    gate.open()
    runner.wait()
    lines = output(lab, "a b/ä").splitlines()
    assert lines[0] == str(lab.cwd)
    assert {"stdin=/dev/null", f"parent={runner.pid}", "MINE=1", "0", "1", "2"} <= set(lines)
    assert {line for line in lines if line.isdigit()} == {"0", "1", "2", "3"}  # ls itself has the fourth
    assert {line for line in lines if line.startswith("TORC_") and "TASK" not in line} == {
        "TORC_WORKFLOW_ID=1",
        "TORC_JOB_ID=1",
        "TORC_JOB_NAME=a b/ä",
        "TORC_ATTEMPT_ID=1",
        f"TORC_OUTPUT_DIR={lab.root()}/output",
        f"TORC_SPOOL_DIR={lab.spool}",
        f"TORC_RUNNER={row['runner']}",
        "TORC_ALLOCATION=",
    }


def test_output_goes_where_the_submitter_says_and_the_runner_has_the_last_word(lab: Lab) -> None:
    lab.spec("echo $TORC_OUTPUT_DIR; echo e >&2")
    assert lab.torc("submit", "spec.json", "--output-dir", "my results/deep").stdout == "1\n"
    lab.run(1)
    told = lab.cwd / "my results/deep"
    assert {path.read_text() for path in told.iterdir()} == {f"{told}\n", "e\n"}
    assert Path(lab.job("j1")["stdout"]).parent == told
    lab.torc("submit", "spec.json", "--output-dir", "my results")
    elsewhere = lab.base / "elsewhere"
    elsewhere.mkdir()
    lab.run(2, "--output-dir", "out 2", cwd=elsewhere)
    assert output(lab, "j1", 2) == f"{elsewhere}/out 2\n"
    lab.run("spec.json", "--output-dir", "out 3")
    assert output(lab, "j1", 3) == f"{lab.cwd}/out 3\n"
    assert lab.ls("output", 3) == []


def test_two_spools_can_share_an_output_directory(lab: Lab) -> None:
    lab.spec("echo $TORC_SPOOL_DIR")
    for name in ("one", "two"):
        lab.run("spec.json", "--spool", name, "--output-dir", "out")
    outputs = sorted(path.read_text() for path in (lab.cwd / "out").glob("*.out*"))
    assert outputs == [f"{lab.cwd}/one\n", f"{lab.cwd}/two\n"]


def test_a_job_that_is_too_long_for_the_system_has_failed_and_others_go_on(lab: Lab) -> None:
    lab.submit({"name": "long", "command": ": " + "x" * 131_000}, "true")
    many = {f"FILL_{number}": "x" * 80_000 for number in range(2)}
    limit = (resource.RLIMIT_STACK, (1 << 20, 1 << 20))  # a quarter of it is what arguments and environment may have
    lab.run(1, code=1, env=many, preexec_fn=lambda: resource.setrlimit(*limit))
    row = lab.jobs()["long"]
    assert (row["status"], row["return_code"]) == ("failed", None)
    assert "Argument list too long" in row["reason"]
    lab.check()


@pytest.mark.parametrize("gone", ["the directory of the submit", slow("the output's directory")])
def test_jobs_that_cannot_be_started_wait_until_they_can(lab: Lab, gone: str) -> None:
    away = lab.cwd / "out" if gone.startswith("the output") else lab.cwd
    gate = lab.gate()
    lab.submit(gate.wait, {"name": "next", "command": "echo ran", "depends_on": ["j1"]})
    runner = lab.start("run", 1, "--output-dir", lab.cwd / "out", cwd=lab.base)
    gate.await_jobs("j1")
    away.rename(lab.base / "away")
    gate.open()
    wait_until(lambda: "jobs cannot be started: " in runner.stderr, "the runner says that it cannot start the job")
    assert str(away) in runner.stderr
    assert lab.states()["next"] in ("running", "ready")
    (lab.base / "away").rename(away)
    runner.wait()
    assert lab.states() == {"j1": "completed", "next": "completed"}
    lab.check()


@pytest.mark.slow
def test_a_node_that_can_start_nothing_is_left_and_the_jobs_are_for_others(lab: Lab) -> None:
    lab.submit("true", "true")
    lab.cwd.rename(lab.base / "away")
    done = lab.run(1, code=4, cwd=lab.base)
    assert "this node could start no job" in done.stderr
    assert lab.states() == {"j1": "ready", "j2": "ready"}
    (lab.base / "away").rename(lab.cwd)
    lab.run(1)
    lab.check()


# --- a job's process tree dies with it

FAMILY = """
sleep 1000 & echo $! > {dir}/child
(trap '' TERM; exec sleep 1000) & echo $! > {dir}/stubborn
setsid sleep 1000 & echo $! > {dir}/session
(setsid bash -c 'echo $$ > {dir}/daemon; exec sleep 1000' &)
(env -i setsid bash -c 'echo $$ > {dir}/nameless; exec sleep 1000' &)
"""
MEMBERS = ("child", "stubborn", "session", "daemon", "nameless")


@pytest.mark.parametrize("end", ["ends", "canceled", "two signals", slow("fails"), slow("runtime"), slow("time limit")])
def test_what_a_job_leaves_running_dies_with_it(lab: Lab, end: str) -> None:
    gate = lab.gate()
    lab.submit(
        job("j1", FAMILY.format(dir=lab.base) + gate.wait + ("; exit 1" if end == "fails" else ""), end),
        resource_requirements=[{"name": end, "runtime": "PT1S" if end == "runtime" else "PT2S"}],
    )
    runner = lab.start("run", 1, "--grace", "0.1", *(["--time-limit", "PT2S"] if end == "time limit" else []))
    gate.await_jobs("j1")
    pids = [pid_in(lab.base / member) for member in MEMBERS]
    assert not any(map(gone, pids))
    if end in ("ends", "fails"):
        gate.open()
    elif end == "canceled":
        lab.torc("cancel", 1)
    elif end == "two signals":
        runner.signal(signal.SIGTERM)
        runner.signal(signal.SIGINT)
    code, state = {
        "ends": (0, "completed"),
        "fails": (1, "failed"),
        "canceled": (1, "canceled"),
        "runtime": (1, "terminated"),
    }.get(end, (4, "terminated"))
    runner.wait(code)
    assert all(map(gone, pids))
    assert lab.states() == {"j1": state}
    lab.check()


def test_what_one_job_left_does_not_outlive_it_while_others_run(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(
        job("leaves", f"setsid sleep 1000 & echo $! > {lab.base}/session; sleep 1000 & echo $! > {lab.base}/child"),
        job("stays", f"(setsid bash -c 'echo $$ > {lab.base}/own; exec sleep 1000' &); {gate.wait}"),
    )
    runner = lab.start("run", 1, "-p", 2)
    gate.await_jobs("stays")
    lab.await_states(leaves="completed")
    wait_until(lambda: gone(pid_in(lab.base / "session")) and gone(pid_in(lab.base / "child")), "its children are dead")
    assert not gone(pid_in(lab.base / "own"))  # those of a job that runs are not touched
    gate.open()
    runner.wait()
    assert gone(pid_in(lab.base / "own"))


# --- what is claimed


def test_resources_are_never_oversubscribed(lab: Lab) -> None:
    log = lab.base / "log"
    needs = [{"name": f"c{count}", "num_cpus": count, "memory": f"{count}00m"} for count in (1, 2, 3, 4)]
    lab.submit(
        *(
            job(f"j{number}", f"echo +{1 + number % 4} >> {log}; sleep 0.01; echo -{1 + number % 4} >> {log}", need)
            for number, need in enumerate(f"c{1 + number % 4}" for number in range(24))
        ),
        resource_requirements=needs,
    )
    lab.run(1, "--num-cpus", 4, "--memory-gb", "0.4")
    used, most = 0, 0
    for line in log.read_text().split():
        used += int(line)
        most = max(most, used)
    assert (used, most) == (0, 4)
    lab.check()


def test_gpus_are_given_by_index_and_a_third_job_waits(lab: Lab) -> None:
    gate = lab.gate()
    show = "echo [$CUDA_VISIBLE_DEVICES]; "
    lab.submit(
        *(job(f"g{number}", show + gate.wait, "one gpu") for number in (1, 2, 3)),
        job("none", show),
        resource_requirements=REQUIREMENTS,
    )
    runner = lab.start("run", 1, "--num-gpus", 2, "--num-cpus", 4)
    gate.await_jobs("g1", "g2")
    lab.await_states(none="completed")
    assert lab.states()["g3"] == "ready"
    assert {output(lab, "g1"), output(lab, "g2")} == {"[0]\n", "[1]\n"}
    assert output(lab, "none") == "[]\n"
    gate.open()
    runner.wait()
    assert output(lab, "g3") in ("[0]\n", "[1]\n")
    assert lab.job("g1")["attempts"][0]["gpus"] == output(lab, "g1").strip("[]\n")


@pytest.mark.parametrize("variable", ["CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"])
def test_the_gpus_that_the_runner_sees_are_those_that_jobs_get(lab: Lab, variable: str) -> None:
    gate = lab.gate()
    lab.submit(
        *(job(f"g{number}", f"echo ${variable}; {gate.wait}", "one gpu") for number in (1, 2)),
        resource_requirements=REQUIREMENTS,
    )
    runner = lab.start("run", 1, "--num-cpus", 4, env={variable: "5,GPU-3"})
    gate.await_jobs("g1", "g2")
    gate.open()
    runner.wait()
    assert {output(lab, "g1"), output(lab, "g2")} == {"5\n", "GPU-3\n"}


def test_a_job_of_two_nodes_takes_two_whole_ones(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(
        job("small", gate.wait),
        job("wide", gate.wait, "two nodes"),
        job("last", gate.wait, "two cpus"),
        resource_requirements=REQUIREMENTS,
    )
    runner = lab.start("run", 1, "--num-nodes", 2, "--num-cpus", 2)
    gate.await_jobs("small", "last")
    assert lab.states()["wide"] == "ready"  # there are two nodes, but they are not free
    gate.open()
    runner.wait()
    lab.submit(job("wide", "true", "two nodes"), resource_requirements=REQUIREMENTS)
    assert "job wide needs 2 nodes, the runner has 1" in lab.run(2, "--num-cpus", 8, code=3).stderr


def test_queue_depth_counts_jobs_and_ignores_all_else(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(
        *(job(f"j{number}", f"echo [$CUDA_VISIBLE_DEVICES]; {gate.wait}", "huge") for number in range(1, 6)),
        resource_requirements=REQUIREMENTS,
    )
    runner = lab.start("run", 1, "--max-parallel-jobs", 3, "--num-cpus", 1, "--time-limit", "PT1H")
    gate.await_jobs("j1", "j2", "j3")
    assert [lab.states()[name] for name in ("j4", "j5")] == ["ready", "ready"]
    assert len(lab.ls(f"running/{lab.runner()}")) == 3
    gate.open()
    runner.wait()
    assert set(lab.states().values()) == {"completed"}
    assert output(lab, "j1") == "[]\n"  # untouched


def test_jobs_are_claimed_by_priority_then_in_order_of_submission(lab: Lab) -> None:
    order = lab.base / "order"
    priorities = [0, 5, 0, 999_999, 5, 1]
    lab.submit(
        *(job(f"j{number}", f"echo $TORC_JOB_NAME >> {order}", priority=each) for number, each in enumerate(priorities))
    )
    lab.run(1, "--max-parallel-jobs", 1)
    assert order.read_text().split() == ["j3", "j1", "j4", "j5", "j0", "j2"]


def test_a_runner_under_torcs_name_calls_itself_so(lab: Lab) -> None:
    done = lab.torc("--bogus", program="torc-spool-job-runner", code=2)
    assert done.stderr.startswith("Usage: torc-spool-job-runner [OPTIONS] [SPEC_OR_ID]\n")
    assert lab.torc("-h", program="torc-spool-slurm-job-runner").stdout.startswith("Usage: torc-spool-slurm-job-runner")


@pytest.mark.parametrize(
    ("program", "words", "runs"),
    [
        ("torc-spool", "run 1", {"free"}),
        slow("torc-spool", "run 1 --scheduler gpu", {"free", "on gpu"}),
        slow("torc-spool", "run 1 --scheduler 2", {"free", "on mem"}),
        ("torc-spool-slurm-job-runner", "1 --scheduler-config-id 1 --num-cpus 32 --num-gpus 8", {"free", "on gpu"}),
        ("torc-spool-slurm-job-runner", "1 --scheduler-config-id mem --memory-gb 512.5", {"free", "on mem"}),
        ("torc-spool-job-runner", "1 --max-parallel-jobs 10 --output-dir ./output", {"free"}),
        ("torc-spool", "run 1 --any-scheduler", {"free", "on gpu", "on mem"}),
    ],
)
def test_a_bound_job_runs_on_its_scheduler_and_nowhere_else(lab: Lab, program: str, words: str, runs: set[str]) -> None:
    lab.submit(
        job("on gpu", scheduler="gpu"),
        job("on mem", slurm_scheduler="mem"),
        job("free"),
        slurm_schedulers=[{"name": "gpu"}, {"name": "mem"}],
    )
    everything = runs == {"free", "on gpu", "on mem"}
    done = lab.torc(*words.split(), program=program, code=0 if everything else 3)
    assert {name for name, state in lab.states().items() if state == "completed"} == runs
    for name in {"on gpu", "on mem"} - runs:
        assert f"left: job {name} is bound to scheduler {name[3:]}" in done.stderr
    lab.check()


def test_preview_shows_what_a_runner_really_claims(lab: Lab) -> None:
    gate = lab.gate()
    needs = [{"name": f"c{count}", "num_cpus": count, "memory": f"{count}g", "runtime": "PT1H"} for count in (1, 2, 3)]
    lab.submit(
        job("too big", gate.wait, "huge", priority=9),
        job("c3", gate.wait, "c3"),
        job("first", gate.wait, "c2", priority=5),
        job("c2", gate.wait, "c2"),
        job("c1", gate.wait, "c1"),
        job("too long", gate.wait, "long"),
        job("bound", gate.wait, scheduler="gpu"),
        job("blocked", gate.wait, depends_on=["c1"]),
        resource_requirements=[*REQUIREMENTS, *needs],
        slurm_schedulers=[{"name": "gpu"}],
    )
    options = ["--num-cpus", 5, "--memory-gb", "5.5", "--time-limit", "PT1H"]
    before = sorted(path for path in lab.root().rglob("*"))
    preview = lab.torc("preview", 1, *options, "-f", "json").json
    assert sorted(path for path in lab.root().rglob("*")) == before
    assert preview["claimed"] == ["first", "c3"]
    reasons = {row["name"]: row["reason"] for row in preview["skipped"]}
    assert set(reasons) == {"too big", "c2", "c1", "too long", "bound"}
    assert "5000 cpus" in reasons["too big"]
    assert reasons["c1"] == "needs 1 cpu, 0 are free"
    assert "7200 s" in reasons["too long"]
    assert "scheduler gpu" in reasons["bound"]
    runner = lab.start("run", 1, *options)
    gate.await_jobs("c3", "first")
    running = {name for name, state in lab.states().items() if state == "running"}
    assert running == set(preview["claimed"])
    gate.open()
    done = runner.wait(3)
    for name in ("too big", "too long", "bound"):
        assert f"left: job {name} " in done.stderr
    assert lab.torc("preview", 1, "--max-parallel-jobs", 1, "--any-scheduler", "-f", "json").json["claimed"] == [
        "too big"
    ]
    assert lab.torc("preview", 1, "--limit", 0, "-f", "json").json["claimed"] == []
    assert "skip   bound: is bound to scheduler gpu" in lab.torc("preview", 1).stdout


def test_runners_of_both_kinds_share_a_workflow(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(
        *(job(f"big{number}", gate.wait, "huge") for number in range(2)),
        *(job(f"small{number}", gate.wait) for number in range(2)),
        resource_requirements=REQUIREMENTS,
    )
    aware = lab.start("run", 1, "--num-cpus", 2)
    gate.await_jobs("small0", "small1")
    deep = lab.start("run", 1, "--max-parallel-jobs", 9)
    gate.await_jobs("big0", "big1")
    gate.open()
    assert "2 completed" in deep.wait(None).stderr
    aware.wait(None)
    assert set(lab.states().values()) == {"completed"}
    lab.check()


# --- dependencies


def test_a_diamond_runs_in_order(lab: Lab) -> None:
    order = lab.base / "order"
    say = f"echo $TORC_JOB_NAME >> {order}"
    lab.spec(
        job("top", say),
        job("left", say, depends_on=["top"]),
        job("right", say, depends_on=["top"]),
        job("bottom", say, depends_on=["left", "right"]),
    )
    done = lab.run("spec.json", "-p", 4)
    assert "workflow 1" in done.stderr
    lines = order.read_text().split()
    assert (lines[0], set(lines[1:3]), lines[3]) == ("top", {"left", "right"}, "bottom")
    lab.check()


def test_a_failure_cancels_what_waits_for_it_but_for_those_that_want_to_run(lab: Lab) -> None:
    lab.submit(
        job("bad", "exit 5"),
        job("next", depends_on=["bad"]),
        job("far", depends_on=["next"]),
        job("cleanup", depends_on=["bad", "far"], cancel_on_blocking_job_failure=False),
        job("after cleanup", depends_on=["cleanup"]),
        job("other"),
    )
    lab.run(1, code=1)
    rows = lab.jobs()
    assert {name: row["status"] for name, row in rows.items()} == {
        "bad": "failed",
        "next": "canceled",
        "far": "canceled",
        "cleanup": "completed",
        "after cleanup": "completed",
        "other": "completed",
    }
    assert "job 'bad' did not complete" in rows["next"]["reason"]
    assert "job 'next' did not complete" in rows["far"]["reason"]
    lab.check()


def test_many_runners_that_finish_at_once_release_each_job_once(lab: Lab) -> None:
    gate = lab.gate()
    execs = lab.base / "execs"
    say = f"echo $TORC_JOB_NAME >> {execs}"
    first = [f"a{number}" for number in range(24)]
    lab.submit(
        *(job(name, f"{say}; {gate.wait}") for name in first),
        job("join", say, depends_on=first),
        *(job(f"b{number}", say, depends_on=["join"]) for number in range(24)),
        job("end", say, depends_on=[f"b{number}" for number in range(24)]),
    )
    runners = [lab.start("run", 1, "--max-parallel-jobs", 6) for _ in range(4)]
    gate.await_jobs(*first)
    gate.open()
    for runner in runners:
        runner.wait(None)
    assert set(lab.states().values()) == {"completed"}
    assert sorted(execs.read_text().split()) == sorted(lab.jobs())
    lab.check()


def test_a_runner_is_quiet_in_a_finished_workflow(lab: Lab) -> None:
    lab.submit("exit 1")
    lab.run(1, code=1)
    done = lab.run(1, "-f", "json", code=1)
    assert done.json["recorded"] == {}
    assert json.loads(done.stdout)["left"] == []
