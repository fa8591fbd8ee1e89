"""Runners as processes: signals, limits, time, and how a runner ends."""

from __future__ import annotations

import contextlib
import os
import pty
import shlex
import signal
import subprocess
import sys

import cliutil
import pytest
from cliutil import TIMEOUT_S, Lab, gone, wait_until
from runtools import REQUIREMENTS, job, output, slow

from torc_spool import actor, owners
from torc_spool.select import Free, Offer
from torc_spool.served import Served

lab = cliutil.lab


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
    pid = lab.pid("first")
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
