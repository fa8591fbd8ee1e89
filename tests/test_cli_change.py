"""What people change with commands and with `mv`, while runners run and while none does."""

from __future__ import annotations

import json
import os
import signal
from functools import partial

import cliutil
import pytest
from cliutil import Lab, gone, wait_until

from torc_spool import naming

lab = cliutil.lab
slow = partial(pytest.param, marks=pytest.mark.slow)


def move(lab: Lab, name: str, directory: str, **changes: int) -> None:
    """`mv` by hand, with another rank or attempt if asked for."""
    path = lab.file(name)
    new = str(naming.parse_job(path.name)._replace(**changes))
    path.rename(lab.root() / directory / new)


def tree(lab: Lab) -> set[str]:
    return {str(path) for path in lab.spool.rglob("*")}


# --- cancel


def test_waiting_jobs_are_canceled_at_once_and_what_waits_for_them_with_them(lab: Lab) -> None:
    lab.submit("true", {"name": "next", "depends_on": ["j1"]}, {"name": "far", "depends_on": ["next"]}, "true", "true")
    lab.torc("hold", 1, "j5")
    done = lab.torc("cancel", 1, "j1", "j5", "-f", "json")
    assert [(row["name"], row["done"], row["what"]) for row in done.json] == [
        ("j1", True, "canceled"),
        ("j5", True, "canceled"),
    ]
    assert lab.states() == {"j1": "canceled", "next": "canceled", "far": "canceled", "j4": "ready", "j5": "canceled"}
    rows = lab.jobs()
    assert rows["j1"]["reason"] == "canceled by request"
    assert "'j1' did not complete" in rows["next"]["reason"]
    lab.run(1, code=1)
    lab.check()


def test_a_running_job_is_canceled_by_its_runner(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(f"trap 'exit 9' TERM; {gate.wait}", gate.wait, {"name": "next", "depends_on": ["j1"]}, {"name": "other"})
    runner = lab.start("run", 1, "-p", 2)
    gate.await_jobs("j1", "j2")
    assert f"runner {lab.runner()} is asked to cancel it" in lab.torc("cancel", 1, "j1").stdout
    lab.await_states(j1="canceled", next="canceled", other="completed", j2="running")
    gate.open()
    runner.wait(1)
    row = lab.jobs()["j1"]
    assert (row["return_code"], row["reason"]) == (9, "canceled by request")
    assert lab.ls("requests") == []
    lab.check()


@pytest.mark.slow
def test_all_of_a_workflow_is_canceled_and_its_runner_ends(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(gate.wait, gate.wait, gate.wait, {"name": "next", "depends_on": ["j1"]})
    runner = lab.start("run", 1, "-p", 2)
    gate.await_jobs("j1", "j2")
    lab.torc("cancel", 1)
    runner.wait(1)
    assert set(lab.states().values()) == {"canceled"}
    lab.check()


def test_jobs_of_a_dead_runner_are_canceled_too(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(gate.wait)
    runner = lab.start("run", 1)
    gate.await_jobs("j1")
    pid = lab.pid("j1")
    runner.kill()
    lab.torc("cancel", 1)
    assert lab.states() == {"j1": "canceled"}
    assert gone(pid)
    assert lab.ls("requests") == []


# --- hold, release, priority


def test_held_jobs_wait_until_they_are_released(lab: Lab) -> None:
    lab.submit("true", {"name": "next", "depends_on": ["j1"]}, "true")
    assert lab.torc("hold", 1, "j1", "next").stdout == "j1: held\nnext: held\n"
    assert "left: job j1 is held" in lab.run(1, code=3).stderr
    assert lab.torc("release", 1).stdout == "j1: ready\nnext: blocked\n"
    lab.torc("hold", 1, "next")
    lab.run(1, code=3)
    assert lab.torc("release", 1, "next").stdout == "next: ready\n"
    lab.run(1)
    assert {row["attempt"] for row in lab.jobs().values()} == {1}
    assert "nothing was changed" in lab.torc("hold", 1).stderr
    assert lab.torc("hold", 1, "j1", code=2).stdout == "j1: is completed; only blocked and ready jobs can be held\n"
    assert lab.torc("release", 1, "j1", code=2).stdout == "j1: is completed, not held\n"


def test_a_held_job_whose_cause_to_wait_failed_is_canceled_when_it_is_released(lab: Lab) -> None:
    lab.submit("exit 1", {"name": "next", "depends_on": ["j1"]})
    lab.torc("hold", 1, "next")
    lab.run(1, code=3)
    lab.torc("release", 1, "next")
    assert lab.states()["next"] == "canceled"


def test_a_command_is_changed_by_hold_edit_release(lab: Lab) -> None:
    lab.submit("echo old")
    lab.torc("hold", 1)
    file = lab.file("j1")
    file.write_text(file.read_text().replace("echo old", "echo new"))
    lab.torc("release", 1)
    lab.run(1)
    assert lab.torc("logs", 1, "j1").stdout == "new\n"
    assert json.loads(lab.torc("jobs", "show", 1, "j1", "-f", "json").stdout)["command"] == "echo new"


def test_the_priority_of_waiting_jobs_is_changed(lab: Lab) -> None:
    order = lab.base / "order"
    say = f"echo $TORC_JOB_NAME >> {order}"
    lab.submit(say, say, say, {"name": "next", "command": say, "depends_on": ["j2"]})
    assert lab.torc("set-priority", 1, "j3", "next", 7).stdout == "j3: priority 7\nnext: priority 7\n"
    assert lab.jobs()["j3"]["priority"] == 7
    lab.run(1, "-p", 1)
    assert order.read_text().split() == ["j3", "j1", "j2", "next"]
    assert "its priority no longer matters" in lab.torc("set-priority", 1, "j1", 1, code=2).stdout


# --- retry


def test_retry_runs_jobs_again_and_brings_back_what_was_canceled_because_of_them(lab: Lab) -> None:
    lab.submit(
        {"name": "bad", "command": "test -e now"},
        {"name": "next", "depends_on": ["bad"]},
        {"name": "far", "depends_on": ["next"]},
        {"name": "unwanted"},
        {"name": "good"},
    )
    lab.torc("cancel", 1, "unwanted")
    lab.run(1, code=1)
    assert lab.states() == {
        "bad": "failed",
        "next": "canceled",
        "far": "canceled",
        "unwanted": "canceled",
        "good": "completed",
    }
    assert lab.torc("retry", 1, "good", code=2).stdout == "good: is completed; nothing to retry\n"
    (lab.cwd / "now").touch()
    assert lab.torc("retry", 1, "--failed").stdout == "bad: ready, attempt 2\n"
    assert lab.states() == {
        "bad": "ready",
        "next": "blocked",
        "far": "blocked",
        "unwanted": "canceled",
        "good": "completed",
    }
    lab.run(1, code=1)
    assert lab.torc("retry", 1, "unwanted").stdout == "unwanted: ready, attempt 2\n"
    lab.run(1)
    results = lab.torc("results", "list", 1, "-f", "json").json
    assert [(row["name"], row["attempt"], row["outcome"]) for row in results] == [
        ("bad", 1, "failed"),
        ("bad", 2, "completed"),
        ("next", 2, "completed"),
        ("far", 2, "completed"),
        ("unwanted", 2, "completed"),
        ("good", 1, "completed"),
    ]
    assert sorted(os.listdir(lab.root() / "output"))[:4] == [
        "1-000000001.1-bad.err",
        "1-000000001.1-bad.out",
        "1-000000001.2-bad.err",
        "1-000000001.2-bad.out",
    ]
    assert "nothing was changed" in lab.torc("retry", 1).stderr
    lab.check()


def test_a_retry_of_what_waits_for_a_failed_job_waits_with_it(lab: Lab) -> None:
    lab.submit("exit 1", {"name": "next", "depends_on": ["j1"]})
    lab.run(1, code=1)
    file = lab.file("next")
    refused = lab.torc("retry", 1, "next", code=2).stdout
    assert refused == ("next: waits for 'j1', which did not complete; retry that one: this one comes back with it\n")
    assert file.exists()
    assert lab.states() == {"j1": "failed", "next": "canceled"}
    assert lab.torc("retry", 1, "next", "j1").stdout == "next: comes back with 'j1'\nj1: ready, attempt 2\n"
    assert lab.states() == {"j1": "ready", "next": "blocked"}
    lab.check()


def test_a_retry_follows_causes_to_where_they_began(lab: Lab) -> None:
    lab.submit(
        {"name": "a", "command": "exit 1"},
        {"name": "b", "command": "exit 1"},
        {"name": "next", "depends_on": ["a"]},
        {"name": "far", "depends_on": ["next"]},
        {"name": "both", "depends_on": ["a", "b"]},
    )
    lab.run(1, code=1)
    assert "far: waits for 'a', which did not complete" in lab.torc("retry", 1, "far", "next", code=2).stdout
    said = lab.torc("retry", 1, "far", "both", "a", "-f", "json", code=2).json
    assert [(row["name"], row["done"]) for row in said] == [("far", True), ("both", False), ("a", True)]
    assert said[1]["what"].startswith("waits for 'b', which did not complete")
    assert lab.states() == {"a": "ready", "b": "failed", "next": "blocked", "far": "blocked", "both": "canceled"}
    lab.check()


@pytest.mark.parametrize("order", [("a", "j", "k"), ("k", "j", "a"), ()], ids=["as they wait", "backwards", "all"])
def test_jobs_that_are_retried_together_wait_for_each_other(lab: Lab, order: tuple[str, ...]) -> None:
    lab.submit(
        {"name": "j", "command": "exit 1", "depends_on": ["a"], "cancel_on_blocking_job_failure": False},
        {"name": "a", "command": "exit 1"},
        {"name": "canceled", "depends_on": ["a"]},
        {"name": "k", "command": "exit 1", "depends_on": ["canceled"], "cancel_on_blocking_job_failure": False},
    )
    lab.run(1, code=1)
    assert lab.states() == {"j": "failed", "a": "failed", "canceled": "canceled", "k": "failed"}
    lab.torc("retry", 1, *order)
    assert lab.states() == {"j": "blocked", "a": "ready", "canceled": "blocked", "k": "blocked"}
    lab.run(1, code=1)
    lab.check()


def test_retry_makes_a_job_anew_that_was_set_aside(lab: Lab) -> None:
    lab.submit({"name": "first", "command": "echo hello"}, {"name": "next", "depends_on": ["first"]})
    lab.file("first").write_bytes(b"")
    lab.file("next").write_bytes(b"\x00\xff")
    lab.run(1, code=3)
    assert lab.states() == {"first": "set_aside", "next": "blocked"}
    assert lab.torc("retry", 1, "first").stdout == "first: made anew from the record; ready, attempt 2\n"
    lab.run(1, code=3)
    assert lab.torc("logs", 1, "first").stdout == "hello\n"
    lab.torc("retry", 1, "next")
    lab.run(1)
    assert lab.torc("status", 1, "-f", "json").json["set_aside"] == 0
    lab.check()


@pytest.mark.slow
def test_a_running_runner_takes_up_what_is_retried(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(gate.wait, {"name": "bad", "command": "test -e now"})
    runner = lab.start("run", 1, "-p", 2)
    gate.await_jobs("j1")
    lab.await_states(bad="failed")
    (lab.cwd / "now").touch()
    lab.torc("retry", 1)
    lab.await_states(bad="completed")
    gate.open()
    runner.wait()


# --- stop, delete


def test_the_beginning_of_a_runners_name_must_mean_one(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(gate.wait, gate.wait)
    runners = [lab.start("run", 1, "-p", 1) for _ in range(2)]
    gate.await_jobs("j1", "j2")
    host = lab.jobs()["j1"]["runner"].rsplit("-", 2)[0]
    assert "more than one runner" in lab.torc("stop", 1, host, code=2).sentence()
    gate.open()
    for runner in runners:
        runner.wait(None)


def test_a_workflow_is_not_deleted_while_runners_live_unless_forced(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(gate.wait)
    runner = lab.start("run", 1)
    gate.await_jobs("j1")
    name, pid = lab.runner(), lab.pid("j1")
    refused = lab.torc("delete", 1, code=2).sentence()
    assert name in refused
    assert "--force" in refused
    assert lab.states() == {"j1": "running"}
    lab.torc("delete", 1, "--force")
    assert [each for each in os.listdir(lab.spool) if not each.startswith(".")] == []
    gate.open()
    done = runner.wait(4)
    assert "records nothing more" in done.stderr
    assert gone(pid)
    assert "no workflow 1" in lab.torc("status", 1, code=2).sentence()
    assert not list((lab.spool / ".trash").iterdir())


def test_a_workflow_is_deleted_with_all_that_is_in_it(lab: Lab) -> None:
    lab.submit("true")
    lab.submit("true")
    lab.run(1)
    assert lab.torc("delete", 1, "-f", "json").json == {"id": 1, "deleted": True}
    assert sorted(os.listdir(lab.spool)) == [".ids", ".staging", ".trash", "2-flow"]
    assert lab.torc("workflows", "list", "-f", "json").json[0]["id"] == 2


# --- legal moves by hand


@pytest.mark.parametrize("place", ["ready/any", "blocked", "held"])
def test_by_hand_a_waiting_job_is_canceled(lab: Lab, place: str) -> None:
    lab.submit("true", {"name": "x", "depends_on": ["j1"]}, {"name": "next", "depends_on": ["x"]})
    if place == "held":
        lab.torc("hold", 1, "x")
    elif place == "ready/any":
        move(lab, "x", "ready/any")
    assert lab.file("x").parent == lab.root() / place
    move(lab, "x", "done/canceled")
    lab.run(1, code=1)
    assert lab.states() == {"j1": "completed", "x": "canceled", "next": "canceled"}
    assert lab.jobs()["x"]["reason"] == "canceled by request"
    lab.check()


def test_by_hand_jobs_are_held_and_released(lab: Lab) -> None:
    order = lab.base / "order"
    say = f"echo $TORC_JOB_NAME >> {order}"
    lab.submit(
        say,
        {"name": "next", "command": say, "depends_on": ["j1"]},
        {"name": "eager", "command": say, "depends_on": ["j1"], "priority": 9},
        {"name": "impatient", "command": say, "depends_on": ["j1"], "priority": 8},
    )
    for name in ("j1", "next", "eager"):
        move(lab, name, "held")
    assert lab.states()["eager"] == "held"
    move(lab, "eager", "ready/any")  # without waiting for anything
    move(lab, "impatient", "ready/any")
    move(lab, "next", "blocked")
    move(lab, "j1", "ready/any")
    lab.run(1, "-p", 1)
    assert order.read_text().split() == ["eager", "impatient", "j1", "next"]
    lab.check()


def test_by_hand_a_job_is_bound_to_another_scheduler_or_to_none(lab: Lab) -> None:
    lab.submit(
        {"name": "to gpu", "command": "test -e now"},
        {"name": "to any", "scheduler": "cpu"},
        slurm_schedulers=[{"name": "gpu"}, {"name": "cpu"}],
    )
    move(lab, "to gpu", "ready/gpu")
    move(lab, "to any", "ready/any")
    assert {name: row["scheduler"] for name, row in lab.jobs().items()} == {"to gpu": "gpu", "to any": None}
    lab.run(1, code=3)
    assert lab.states() == {"to gpu": "ready", "to any": "completed"}
    lab.run(1, "--scheduler", "gpu", code=1)
    lab.torc("retry", 1)
    assert lab.file("to gpu").parent.name == "gpu"  # it stays there when it comes back
    lab.check()


def test_by_hand_the_rank_is_the_priority(lab: Lab) -> None:
    order = lab.base / "order"
    say = f"echo $TORC_JOB_NAME >> {order}"
    lab.submit(say, say, {"name": "next", "command": say, "depends_on": ["j1"]})
    move(lab, "j2", "ready/any", rank=999_000)
    move(lab, "next", "blocked", rank=1)
    assert [row["priority"] for row in lab.jobs().values()] == [0, 999, 999_998]
    lab.run(1, "-p", 1)
    assert order.read_text().split() == ["j2", "j1", "next"]


@pytest.mark.parametrize(
    ("to", "raised"),
    [("ready/any", True), ("blocked", False), slow("ready/any", False), slow("blocked", True)],
)
def test_by_hand_what_has_ended_is_run_again(lab: Lab, to: str, raised: bool) -> None:
    lab.submit("echo $TORC_ATTEMPT_ID", {"name": "bad", "command": "exit 1"}, {"name": "next", "depends_on": ["bad"]})
    lab.run(1, code=1)
    for name in ("j1", "bad", "next"):
        attempt = 1 + raised
        move(lab, name, to, attempt=attempt, **({"cause": None} if raised else {}))  # type: ignore[arg-type]
    # blocked with all that it waits for done, or ready: both run; and what waits for a failed job is canceled
    lab.run(1, code=1)
    outcomes = {row["name"]: row["attempts"] for row in (lab.job(name) for name in ("j1", "bad", "next"))}
    assert [(each["attempt"], each["outcome"]) for each in outcomes["j1"]] == [(1, "completed"), (2, "completed")]
    assert [(each["attempt"], each["outcome"]) for each in outcomes["bad"]] == [(1, "failed"), (2, "failed")]
    assert lab.states()["next"] == ("completed" if to == "ready/any" else "canceled")
    assert (lab.root() / "output" / "1-000000001.2-j1.out").read_text() == "2\n"
    lab.check()


def test_by_hand_a_repaired_file_is_put_back(lab: Lab) -> None:
    lab.submit("echo hello")
    file = lab.file("j1")
    good = file.read_text()
    file.write_text(good[:-5])
    lab.run(1, code=3)
    (aside,) = lab.ls("aside")
    assert aside.startswith(file.name)
    path = lab.root() / "aside" / aside
    path.write_text(good)
    path.rename(file)
    lab.run(1)
    lab.check()


@pytest.mark.slow
def test_moves_by_hand_reach_a_runner_that_waits(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(gate.wait, "true")
    move(lab, "j2", "held")
    runner = lab.start("run", 1, "-p", 2)
    gate.await_jobs("j1")
    move(lab, "j2", "ready/any")
    lab.await_states(j2="completed")
    move(lab, "j2", "ready/any")
    wait_until(lambda: lab.job("j2")["attempt"] == 2 and lab.states()["j2"] == "completed", "it has run again")
    gate.open()
    runner.wait()
    lab.check()


@pytest.mark.slow
def test_a_runner_that_is_signalled_while_it_stops_ends_its_jobs(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(gate.wait)
    runner = lab.start("run", 1)
    gate.await_jobs("j1")
    lab.torc("stop", 1, lab.runner())
    wait_until(lambda: "asked to stop" in runner.stderr, "the runner has heard it")
    runner.signal(signal.SIGTERM)
    runner.wait(4)
    assert lab.states() == {"j1": "terminated"}
