"""Runners as processes: what jobs get, how they end, what is claimed, and how a runner ends."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import resource
import shlex
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import cliutil
import pytest
from cliutil import TIMEOUT_S, Lab, gone, pid_in, wait_until

from torc_spool import actor, owners
from torc_spool.select import Free, Offer
from torc_spool.served import Served

lab = cliutil.lab
slow = partial(pytest.param, marks=pytest.mark.slow)

REQUIREMENTS = [
    {"name": "one gpu", "num_gpus": 1},
    {"name": "two cpus", "num_cpus": 2},
    {"name": "huge", "num_cpus": 5000, "memory": "9t", "num_gpus": 99},
    {"name": "two nodes", "num_nodes": 2},
    {"name": "long", "runtime": "PT2H"},
    {"name": "a second", "runtime": "PT1S"},
    {"name": "small", "memory": "64m"},
]


def job(name: str, command: str = "true", needs: str | None = None, **more: object) -> dict[str, object]:
    return {"name": name, "command": command, **({"resource_requirements": needs} if needs else {}), **more}


def output(lab: Lab, name: str, workflow: int = 1) -> str:
    return Path(lab.job(name, workflow)["stdout"]).read_text()


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


# --- signals

TRAP = "trap 'echo got TERM; exit 7' TERM; "


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, slow(signal.SIGINT), slow(signal.SIGHUP)], ids=lambda number: number.name
)
def test_the_first_signal_gives_jobs_their_notice_and_leaves_the_others(lab: Lab, number: signal.Signals) -> None:
    gate = lab.gate()
    lab.submit(job("traps", TRAP + gate.wait), job("plain", gate.wait), job("waits", gate.wait))
    runner = lab.start("run", 1, "-p", 2)
    gate.await_jobs("traps", "plain")
    runner.signal(number)
    done = runner.wait(4)
    assert number.name in done.stderr
    assert lab.states() == {"traps": "terminated", "plain": "terminated", "waits": "ready"}
    rows = lab.jobs()
    assert (rows["traps"]["return_code"], rows["plain"]["return_code"]) == (7, 143)
    assert number.name in rows["traps"]["reason"]
    assert output(lab, "traps") == "got TERM\n"
    lab.check()
    # what was terminated can be run again
    lab.torc("retry", 1)
    gate.open()
    lab.run(1)


def test_a_job_that_heeds_no_notice_is_killed_after_the_grace(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(f"trap '' TERM; {gate.wait}")
    runner = lab.start("run", 1, "--grace", "0.2")
    gate.await_jobs("j1")
    runner.signal(signal.SIGTERM)
    runner.wait(4)
    assert (lab.jobs()["j1"]["status"], lab.jobs()["j1"]["return_code"]) == ("terminated", 137)


def test_the_second_signal_ends_all_at_once(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(f"trap 'touch {lab.base}/noticed' TERM; while true; do {gate.wait}; done")
    runner = lab.start("run", 1, "--grace", "1000")
    gate.await_jobs("j1")
    runner.signal(signal.SIGINT)
    wait_until((lab.base / "noticed").exists, "the job has its notice")
    assert runner.alive
    runner.signal(signal.SIGINT)
    runner.wait(4)
    assert (lab.jobs()["j1"]["status"], lab.jobs()["j1"]["return_code"]) == ("terminated", 137)
    lab.check()


def test_a_hangup_that_is_ignored_ends_nothing(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(gate.wait)
    runner = lab.start("run", 1, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))  # nohup(1)
    gate.await_jobs("j1")
    runner.signal(signal.SIGHUP)
    gate.open()
    runner.wait()
    assert "SIGHUP" not in runner.stderr


def test_a_signal_when_all_is_done_is_no_failure(lab: Lab) -> None:
    lab.submit("true")
    runner = lab.start("run", 1, "--wait-for-new-jobs", 1000)
    lab.await_states(j1="completed")
    runner.signal(signal.SIGTERM)
    runner.wait(0)


def test_a_terminal_that_goes_away_ends_jobs_as_a_signal_does(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(TRAP + gate.wait)
    own, terminal = pty.openpty()
    runner = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *lab.command("run", 1)],
        env=lab.env,
        cwd=lab.cwd,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    gate.await_jobs("j1")
    os.close(own)
    runner.wait(TIMEOUT_S)
    lab.await_states(j1="terminated")
    wait_until(lambda: lab.ls("running") == [], "the runner has ended")
    assert output(lab, "j1") == "got TERM\n"
    lab.check()


def test_a_terminal_shows_a_bar_with_counts(lab: Lab) -> None:
    lab.submit("true", "exit 1")
    own, terminal = pty.openpty()
    runner = subprocess.Popen(lab.command("run", 1), env=lab.env, cwd=lab.cwd, stdin=terminal, stderr=terminal)
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):
        while data := os.read(own, 4096):
            shown += data
    os.close(own)
    assert runner.wait(TIMEOUT_S) == 1
    assert b"2/2" in shown
    assert b"1 failed" in shown
    assert b"Traceback" not in shown


# --- limits

HOG = f"""{shlex.quote(sys.executable)} -S -c 'import time; x = b"x" * (150 << 20); time.sleep(LONG)'"""


def limited(long: str) -> list[dict[str, object]]:
    hog = HOG.replace("LONG", long)
    return [
        job("slow", f"sleep {long}", "a second"),
        job("hog", hog, "small"),
        job("two hogs", f"{hog.replace('150', '50')} & {hog.replace('150', '50')} & wait", "small"),
        job("modest", f"sleep {long}", "small"),
    ]


def test_jobs_that_exceed_their_stated_needs_are_ended(lab: Lab) -> None:
    lab.submit(*limited("1000")[:3], limited("0.1")[3], resource_requirements=REQUIREMENTS)
    lab.run(1, "--num-cpus", 4, "--memory-gb", 1, "--grace", "0.1", code=1)
    rows = lab.jobs()
    assert (rows["slow"]["status"], rows["slow"]["return_code"]) == ("terminated", 152)
    assert "runtime of 1 s" in rows["slow"]["reason"]
    for name in ("hog", "two hogs"):
        assert (rows[name]["status"], rows[name]["return_code"]) == ("failed", 137)
        assert "memory of 64 MiB" in rows[name]["reason"]
        assert rows[name]["peak_memory_bytes"] > 64 << 20
    assert rows["modest"]["status"] == "completed"
    lab.check()


@pytest.mark.slow
@pytest.mark.parametrize("words", ["--num-cpus 4 --memory-gb 1 --no-limit-resources", "--max-parallel-jobs 4"])
def test_limits_can_be_turned_off_and_do_not_hold_without_resources(lab: Lab, words: str) -> None:
    lab.submit(*limited("1.3"), resource_requirements=REQUIREMENTS)
    lab.run(1, *words.split(), "--grace", "0.1")
    assert set(lab.states().values()) == {"completed"}


@pytest.mark.slow
def test_a_job_that_returns_in_its_grace_keeps_what_it_is_recorded_as(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(job("slow", "trap 'exit 0' TERM; " + gate.wait, "a second"), resource_requirements=REQUIREMENTS)
    lab.run(1, code=1)
    assert (lab.jobs()["slow"]["status"], lab.jobs()["slow"]["return_code"]) == ("terminated", 152)


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


# --- time


def test_a_runner_with_an_end_gives_notice_before_it(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(job("long", gate.wait, "long"), job("open", TRAP + gate.wait), resource_requirements=REQUIREMENTS)
    done = lab.run(1, "--time-limit", "PT1S", "--num-cpus", 4, code=4)
    assert gate.arrived() == {"open"}
    assert lab.states() == {"long": "ready", "open": "terminated"}
    assert "time ended" in lab.jobs()["open"]["reason"]
    assert output(lab, "open") == "got TERM\n"
    assert "1 terminated" in done.stderr


def test_a_job_as_long_as_the_time_that_is_left_is_claimed(lab: Lab) -> None:
    lab.submit(job("long", "true", "long"), resource_requirements=REQUIREMENTS)
    done = lab.run(1, "--time-limit", "PT1H59M59S", code=3)
    assert "job long may run for 7200 s, the runner has 7199 s left" in done.stderr
    lab.run(1, "--time-limit", "PT2H")


# --- how a runner ends


def test_what_is_left_is_named_with_the_reason(lab: Lab) -> None:
    lab.submit(
        job("good"),
        job("held one"),
        job("huge", "true", "huge"),
        job("bound", scheduler="gpu"),
        job("damaged"),
        job("after", depends_on=["huge", "good"]),
        resource_requirements=REQUIREMENTS,
        slurm_schedulers=[{"name": "gpu"}],
    )
    lab.torc("hold", 1, "held one")
    lab.file("damaged").write_text("{")
    done = lab.run(1, "-f", "json", "--num-cpus", 2, code=3)
    left = {row["name"]: row["reason"] for row in done.json["left"]}
    assert set(left) == {"held one", "huge", "bound", "damaged", "after"}
    assert "torc-spool release 1 'held one'" in left["held one"]
    assert "needs 5000 cpus, the runner has 2" in left["huge"]
    assert "scheduler gpu" in left["bound"]
    assert "aside" in left["damaged"]
    assert "waits for huge" in left["after"]
    assert done.json["exit_code"] == 3
    assert done.json["recorded"] == {"completed": 1}
    for name in left:
        assert f"left: job {name} " in done.stderr
    # the end of the story
    lab.torc("release", 1)
    lab.torc("retry", 1, "damaged")
    lab.run(1, "--any-scheduler", "--max-parallel-jobs", 2)
    assert set(lab.states().values()) == {"completed"}


def test_a_runner_waits_for_what_a_job_in_other_hands_may_release(lab: Lab) -> None:
    gate, second = lab.gate(), lab.gate("second")
    lab.submit(
        job("first", gate.wait),
        job("wide", second.wait, "two cpus", depends_on=["first"]),
        job("bound", depends_on=["first"], scheduler="gpu"),
        resource_requirements=REQUIREMENTS,
        slurm_schedulers=[{"name": "gpu"}],
    )
    holder = lab.start("run", 1, "--num-cpus", 1)
    gate.await_jobs("first")
    waiter = lab.start("run", 1, "--num-cpus", 2)
    wait_until(lambda: len(lab.ls("pending")) == 2, "the second runner is there")
    # nothing that the first job may release fits in these: they do not wait
    assert "waits for first" in lab.run(1, "--num-cpus", 1, "--memory-gb", "0.0005", code=3).stderr
    # and this one has nothing to wait for that it may run, once the wide job is in other hands
    gate.open()
    second.await_jobs("wide")
    assert lab.job("wide")["runner"] != lab.job("first")["runner"]
    done = lab.run(1, "--num-cpus", 2, code=3)
    assert "left: job wide is running in the hands of runner" in done.stderr
    second.open()
    holder.wait(3)
    waiter.wait(3)
    assert lab.states() == {"first": "completed", "wide": "completed", "bound": "ready"}
    lab.check()


@pytest.mark.parametrize(
    ("job", "code"),
    [({"scheduler": "gpu"}, 0), ({"resource_requirements": "large"}, 3)],
    ids=["others may run it", "nobody else does"],
)
def test_what_is_left_to_others_is_no_failure_to_slurm(lab: Lab, job: dict[str, str], code: int) -> None:
    lab.submit(
        "true",
        {"name": "left", **job},
        {"name": "last", "depends_on": ["left"]},
        resource_requirements=[{"name": "large", "num_cpus": 3}],
        slurm_schedulers=[{"name": "gpu"}],
    )
    done = lab.run(1, "--num-cpus", 2, "--leave-to-others", code=code)
    assert "left: job left" in done.stderr
    assert "left: job last waits for left" in done.stderr


def test_a_runner_that_waits_takes_over_from_one_that_dies(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(job("first", gate.wait), job("second", depends_on=["first"]))
    holder = lab.start("run", 1)
    gate.await_jobs("first")
    waiter = lab.start("run", 1)
    wait_until(lambda: len(lab.ls("pending")) == 2, "the second runner is there")
    pid = lab.job("first")["pid"]
    holder.kill()
    lab.await_states(first="running")
    wait_until(lambda: lab.jobs()["first"]["attempt"] == 2, "the other one has taken over")
    assert gone(pid)
    gate.open()
    waiter.wait()
    assert [row["outcome"] for row in lab.job("first")["attempts"]] == [None, "completed"]
    lab.check()


def test_a_holder_that_dies_between_two_looks_is_worth_waiting_for(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lived when the runner looked around, and is dead when it looks at who holds what it waits for."""
    gate = lab.gate()
    lab.submit(job("first", gate.wait), job("second", depends_on=["first"]))
    holder = lab.start("run", 1)
    gate.await_jobs("first")
    served = Served(lab.store(), actor.identity(actor.new_name()), directories=None)
    offer = Offer.idle(Free(cpus=1, memory_mib=1))
    assert served.prospects.may_follow(offer, served.actor)
    holder.kill()
    monkeypatch.setattr(owners, "dead", lambda _found: [])
    assert served.prospects.may_follow(offer, served.actor)


def test_a_death_that_is_seen_just_before_ending_is_worth_waiting_for(lab: Lab) -> None:
    """The holder may die between the look for the dead and the look for what may still follow."""
    gate = lab.gate()
    lab.submit(gate.wait)
    holder = lab.start("run", 1)
    gate.await_jobs("j1")
    served = Served(lab.store(), actor.identity(actor.new_name()), directories=None)
    offer = Offer.idle(Free(cpus=1, memory_mib=1))
    assert not served.prospects.may_follow(offer, served.actor)
    holder.kill()
    assert served.prospects.may_follow(offer, served.actor)
    gate.open()
    lab.run(1)
    assert not served.prospects.may_follow(offer, served.actor)


def test_a_runner_without_an_id_serves_all_workflows_the_oldest_first(lab: Lab) -> None:
    order = lab.base / "order"
    for number in (1, 2, 3):
        lab.submit(f"echo {number} >> {order}", f"echo {number} >> {order}", *(["exit 1"] if number == 2 else []))
    lab.run("--max-parallel-jobs", 1, code=1)
    assert order.read_text().split() == ["1", "1", "2", "2", "3", "3"]
    for number in (1, 2, 3):
        lab.check(number)
    lab.submit(job("b", scheduler="s"), slurm_schedulers=[{"name": "s"}])
    assert "workflow 4: job b is bound" in lab.run(code=3).stderr


def test_a_waiting_runner_notices_new_jobs_and_new_workflows(lab: Lab) -> None:
    runner = lab.start("run", "--wait-for-new-jobs", 1000)  # there before the spool
    wait_until(lab.spool.exists, "the spool is made")
    lab.spec("true")
    assert lab.torc("submit", "spec.json").stdout == "1\n"
    wait_until(lambda: lab.finished(1), "the first workflow is finished")
    lab.submit("exit 1", job("next", depends_on=["j1"]))
    wait_until(lambda: lab.finished(2), "the second workflow is finished")
    lab.torc("retry", 2)
    wait_until(lambda: lab.finished(2) and lab.jobs(2)["j1"]["attempt"] == 2, "what was retried is finished again")
    lab.torc("delete", 1, "--force")
    lab.submit("true")
    wait_until(lambda: lab.finished(3), "it goes on when a workflow is deleted")
    runner.signal(signal.SIGTERM)
    runner.wait(1)  # everything has an outcome
    lab.check(2)
    lab.check(3)


def test_a_workflow_that_is_deleted_costs_the_others_that_its_runner_serves_no_job(lab: Lab) -> None:
    gates = [lab.gate(f"gate {number}") for number in (1, 2)]
    for gate in gates:
        lab.submit(gate.wait)
    runner = lab.start("run", "-p", 2)
    for gate in gates:
        gate.await_jobs("j1")
    lab.torc("delete", 1, "--force")
    for gate in gates:
        gate.open()
    runner.wait(None)
    lab.run(2)
    lab.check(2)
    assert [name for name in os.listdir(lab.spool) if not name.startswith(".")] == ["2-flow"]


def test_a_job_can_submit_more_and_a_runner_of_all_runs_it(lab: Lab) -> None:
    lab.spec({"name": "child", "command": "echo $TORC_WORKFLOW_ID"}, path="child.json", name="more")
    lab.submit(f"{lab.command()[0]} submit child.json")
    runner = lab.start("run", "--wait-for-new-jobs", 1000, env={"TORC_SPOOL_DIR": None}, cwd=lab.spool.parent)
    wait_until(lambda: list(lab.spool.glob("2-more")) and lab.finished(2), "what the job submitted is finished")
    lab.await_states(1, j1="completed")  # its last words may be read while it still goes away
    assert lab.torc("logs", 1, "j1").stdout == "2\n"
    assert output(lab, "child", 2) == "2\n"
    runner.signal(signal.SIGTERM)
    runner.wait()


@pytest.mark.slow
def test_a_runner_waits_for_new_jobs_only_as_long_as_it_is_told(lab: Lab) -> None:
    lab.submit("true")
    lab.run("--wait-for-new-jobs", "0.3")
    lab.run(1, "--wait-for-new-jobs", "0.3")


def test_a_runner_that_is_asked_to_stop_finishes_what_it_runs(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(gate.wait, gate.wait)
    runner = lab.start("run", 1, "-p", 1)
    gate.await_jobs("j1")
    name = lab.runner()
    assert name in lab.torc("stop", 1, name[:-4]).stdout
    wait_until(lambda: "asked to stop" in runner.stderr, "the runner has heard it")
    gate.open()
    runner.wait(4)
    assert lab.states() == {"j1": "completed", "j2": "ready"}
    assert lab.ls("requests") == []
    lab.check()


def test_an_idle_runner_can_be_asked_to_stop(lab: Lab) -> None:
    lab.submit("true")
    runner = lab.start("run", "--wait-for-new-jobs", 1000)
    wait_until(lambda: lab.finished(), "all is done")
    lab.torc("stop", 1, lab.runner())
    runner.wait(0)
    assert lab.ls("requests") == []


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
