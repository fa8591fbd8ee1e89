"""Work of dead runners is taken back, on evidence, and nobody else's."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import cliutil
import pytest
from cliutil import Background, Gate, Lab, gone, pid_in, wait_until

lab = cliutil.lab


class Wreck:
    """A workflow of two jobs that ran in a runner which was killed; their processes live on, one in its own session."""

    def __init__(self, lab: Lab, *jobs: dict[str, Any]) -> None:
        self.lab, self.gate = lab, lab.gate()
        command = (
            f"setsid sleep 1000 & echo $! > {lab.base}/$TORC_JOB_NAME.$TORC_ATTEMPT_ID; "
            f"echo attempt $TORC_ATTEMPT_ID; test $TORC_ATTEMPT_ID -gt 1 || {{ {self.gate.wait}; }}"
        )
        lab.submit(command, command, *jobs)
        self.process = lab.start("run", 1, "-p", 2)
        self.gate.await_jobs("j1", "j2")
        self.runner = lab.runner()
        self.record = lab.root() / "runners" / self.runner / "runner.json"
        self.pids = [lab.pid(name) for name in ("j1", "j2")]
        self.pids += [pid_in(lab.base / f"{name}.1") for name in ("j1", "j2")]
        self.process.kill()
        assert not any(map(gone, self.pids))

    def forge(self, **fields: Any) -> None:
        """Say something else about who the runner is."""
        record = json.loads(self.record.read_text())
        self.record.write_text(json.dumps({**record, **fields}))

    def silent(self, seconds: float) -> None:
        heartbeat = self.record.parent / "heartbeat"
        now = os.stat(heartbeat).st_mtime
        os.utime(heartbeat, (now - seconds, now - seconds))


@pytest.fixture
def wreck(lab: Lab) -> Wreck:
    return Wreck(lab)


def listing(lab: Lab) -> set[str]:
    return {str(path) for path in lab.spool.rglob("*")}


def test_a_dry_run_shows_what_would_be_done_and_does_nothing(lab: Lab, wreck: Wreck) -> None:
    before = listing(lab)
    done = lab.torc("recover", 1, "--dry-run", "-f", "json").json
    assert done["dry_run"] is True
    (runner,) = done["runners"]
    assert runner["name"] == wreck.runner
    assert f"process {wreck.process.pid} is gone" in runner["evidence"]
    assert [(row["job"], row["action"]) for row in done["jobs"]] == [(1, "requeue"), (2, "requeue")]
    assert listing(lab) == before
    assert not any(map(gone, wreck.pids))
    status = lab.torc("status", 1, "-f", "json").json
    assert status["runners"][0]["state"] == "dead"
    assert "requeue" in lab.torc("recover", 1, "--dry-run").stdout


@pytest.mark.parametrize("by", ["recover", "run"])
def test_the_orphans_are_killed_then_the_jobs_are_given_back_with_the_evidence(lab: Lab, wreck: Wreck, by: str) -> None:
    if by == "recover":
        done = lab.torc("recover", 1)
        assert f"runner {wreck.runner} is dead: process {wreck.process.pid} is gone" in done.stdout
        assert all(map(gone, wreck.pids))
        assert lab.states() == {"j1": "ready", "j2": "ready"}
        assert "no runner is known to be dead" in lab.torc("recover", 1).stderr
    lab.run(1)
    assert all(map(gone, wreck.pids))
    for row in (lab.job(name) for name in ("j1", "j2")):
        lost, completed = row["attempts"]
        assert (lost["attempt"], lost["outcome"], lost["runner"]) == (1, None, wreck.runner)
        assert f"process {wreck.process.pid} is gone from" in lost["reason"]
        assert (completed["attempt"], completed["outcome"]) == (2, "completed")
        assert completed["runner"] != wreck.runner
        # no orphan wrote into the new attempt's output
        assert Path(completed["stdout"]).read_text() == "attempt 2\n"
    results = lab.torc("results", "list", 1).stdout
    assert results.count("lost") == 2
    dead = [row for row in lab.torc("status", 1, "-f", "json").json["runners"] if row["state"] == "dead"]
    assert [row["name"] for row in dead] == [wreck.runner]
    assert "is gone" in dead[0]["evidence"]
    assert dead[0]["recovered_by"]
    lab.check()


def test_results_that_were_written_are_kept_and_torn_ones_are_not(lab: Lab, wreck: Wreck) -> None:
    done, torn = lab.file("j1"), lab.file("j2")
    content = json.loads(done.read_text())
    content["attempts"].append({"attempt": 1, "outcome": "failed", "return_code": 5, "reason": "return code 5"})
    done.write_text(json.dumps(content))
    (torn.parent / f".{torn.name}.tmp").write_text('{"id": 2, "att')
    plan = lab.torc("recover", 1, "--dry-run", "-f", "json").json["jobs"]
    assert [row["action"] for row in plan] == ["keep result", "requeue"]
    lab.run(1, code=1)
    assert lab.states() == {"j1": "failed", "j2": "completed"}
    assert [(row["attempt"], row["outcome"]) for row in lab.job("j1")["attempts"]] == [(1, "failed")]
    assert [(row["attempt"], row["outcome"]) for row in lab.job("j2")["attempts"]] == [(1, None), (2, "completed")]
    lab.check()


def test_what_was_claimed_and_not_started_is_given_back_too(lab: Lab) -> None:
    wreck = Wreck(lab, {"name": "claimed"})
    file = lab.file("claimed")
    file.rename(lab.root() / "pending" / wreck.runner / file.name)
    assert lab.states()["claimed"] == "pending"
    lab.run(1)
    row = lab.job("claimed")
    assert [(each["attempt"], each["outcome"]) for each in row["attempts"]] == [(2, "completed")]
    lab.check()


def test_a_job_that_was_to_be_canceled_is_canceled_by_who_takes_over(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(gate.wait)
    runner = lab.start("run", 1)
    gate.await_jobs("j1")
    runner.signal(signal.SIGSTOP)
    lab.torc("cancel", 1)
    runner.kill()
    lab.run(1, code=1)
    assert lab.states() == {"j1": "canceled"}
    assert "canceled by request" in lab.jobs()["j1"]["reason"]
    assert lab.ls("requests") == []
    lab.check()


# --- whom to believe


@pytest.mark.parametrize(
    "forged",
    [
        pytest.param({"host": "elsewhere"}, id="another host"),
        pytest.param({"boot_id": "0b5c"}, id="started anew but not silent for long", marks=pytest.mark.slow),
        pytest.param({"pid_namespace": "pid:[1]"}, id="another pid namespace", marks=pytest.mark.slow),
    ],
)
def test_a_runner_that_may_live_is_left_alone_until_a_person_says_so(
    lab: Lab, wreck: Wreck, forged: dict[str, Any]
) -> None:
    wreck.forge(**forged)
    assert "no runner is known to be dead" in lab.torc("recover", 1).stderr
    done = lab.run(1, code=3)
    assert lab.states() == {"j1": "running", "j2": "running"}
    assert f"left: job j1 is running in the hands of runner {wreck.runner} (alive)" in done.stderr
    assert wreck.runner in lab.torc("delete", 1, code=2).sentence()
    assert not any(map(gone, wreck.pids))
    done = lab.torc("recover", 1, "--dead", wreck.runner)
    assert "a person said so" in done.stdout
    lab.run(1)
    assert "a person said so" in lab.job("j1")["attempts"][0]["reason"]
    assert any(map(gone, wreck.pids)) == ("host" not in forged)  # what another host runs cannot be seen here
    lab.check()


def test_a_host_that_was_started_anew_lost_its_runners_when_their_lease_is_over(lab: Lab, wreck: Wreck) -> None:
    wreck.forge(boot_id="0b5c")
    wreck.silent(10_000)
    done = lab.torc("recover", 1)
    assert "was started anew since" in done.stdout
    assert "its lease is 240 s" in done.stdout
    lab.run(1)


@pytest.mark.parametrize("by", ["run", "recover"])
def test_a_runner_of_another_host_is_dead_once_it_was_silent_for_longer_than_its_lease(
    lab: Lab, wreck: Wreck, by: str
) -> None:
    wreck.forge(host="elsewhere")
    wreck.silent(200)
    assert "no runner is known to be dead" in lab.torc("recover", 1).stderr
    wreck.silent(10_000)
    state = lab.torc("status", 1, "-f", "json").json["runners"][0]
    assert (state["state"], state["lease_s"]) == ("dead", 240.0)
    assert re.fullmatch(r"it is silent for 10\d\d\d s \(its lease is 240 s\)", state["evidence"])
    if by == "recover":
        assert "(its lease is 240 s)" in lab.torc("recover", 1).stdout
    lab.run(1)
    (taken,) = [
        runner for runner in lab.torc("status", 1, "-f", "json").json["runners"] if runner["name"] == wreck.runner
    ]
    lost, ran = lab.job("j1")["attempts"]
    (decided,) = lab.job("j1")["recoveries"]
    assert (lost["outcome"], ran["outcome"]) == (None, "completed")
    assert lost["reason"] == f"its runner died: {taken['evidence']}"
    assert lost["recovered_by"] == taken["recovered_by"] == decided["recovered_by"]
    assert (decided["decision"], decided["attempt"], decided["runner"]) == ("requeue", 1, wreck.runner)
    assert decided["evidence"] == taken["evidence"]
    shown = lab.torc("jobs", "show", 1, "j1").stdout
    assert f"recovery of attempt 1: requeue, by {decided['recovered_by']} at {decided['time']}" in shown
    assert f"runner {wreck.runner} was dead: {taken['evidence']}" in shown
    assert f"taken back by {taken['recovered_by']}" in lab.torc("status", 1).stdout
    lab.check()


def test_a_process_of_this_host_that_goes_on_is_not_dead_by_its_silence_and_a_stopped_one_is(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(f"test $TORC_ATTEMPT_ID -gt 1 || {{ {gate.wait}; }}", f"true; {gate.only_wait}")
    runner = lab.start("run", 1, "-p", 1)
    gate.await_jobs("j1")
    name, pid = lab.runner(), lab.pid("j1")
    os.utime(lab.root() / "runners" / name / "heartbeat", (0, 0))
    assert "no runner is known to be dead" in lab.torc("recover", 1).stderr
    assert lab.torc("status", 1, "-f", "json").json["runners"][0]["state"] == "silent"
    runner.signal(signal.SIGSTOP)
    done = lab.torc("recover", 1)
    assert f"runner {name} is dead: process {name.split('-')[-2]} is stopped, and silent for" in done.stdout
    assert gone(pid)
    runner.signal(signal.SIGCONT)
    woken = runner.wait(4)
    taker = lab.job("j1")["recoveries"][0]["recovered_by"]
    assert f"{taker} has taken it back on the evidence: process" in woken.stderr
    assert "this runner recorded: nothing" in woken.stderr
    gate.open()
    lab.run(1)
    assert [attempt["outcome"] for attempt in lab.job("j1")["attempts"]] == [None, "completed"]
    lab.check()


def test_another_process_with_the_same_pid_is_not_the_runner(lab: Lab, wreck: Wreck) -> None:
    wreck.forge(pid=os.getpid())
    assert "is gone" in lab.torc("recover", 1).stdout
    wreck.gate.open()
    lab.run(1)


def test_a_runner_that_lives_is_not_robbed(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(gate.wait)
    runner = lab.start("run", 1)
    gate.await_jobs("j1")
    runner.signal(signal.SIGSTOP)  # frozen, and so it may live
    assert "no runner is known to be dead" in lab.torc("recover", 1).stderr
    lab.run(1, code=3)
    assert lab.states() == {"j1": "running"}
    runner.signal(signal.SIGCONT)
    gate.open()
    runner.wait()
    lab.check()


def test_a_runner_that_was_declared_dead_and_wakes_up_records_nothing(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(f"echo $TORC_ATTEMPT_ID; test $TORC_ATTEMPT_ID -gt 1 || {{ {gate.wait}; }}", f"true; {gate.only_wait}")
    frozen = lab.start("run", 1, "-p", 1)
    gate.await_jobs("j1")
    name, pid = lab.runner(), lab.pid("j1")
    frozen.signal(signal.SIGSTOP)
    lab.torc("recover", 1, "--dead", name)
    assert gone(pid)
    gate.open()
    lab.run(1)
    frozen.signal(signal.SIGCONT)
    assert "records nothing more" in frozen.wait(4).stderr
    assert [(row["attempt"], row["outcome"]) for row in lab.job("j1")["attempts"]] == [(1, None), (2, "completed")]
    assert [(row["attempt"], row["outcome"]) for row in lab.job("j2")["attempts"]] == [(1, "completed")]
    lab.check()


def test_who_is_declared_dead_in_one_workflow_records_no_killed_job_as_failed_in_another(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit("true", "true")
    lab.torc("hold", 1, "j2")
    lab.submit(gate.wait)
    runner = lab.start("run", "-p", 4)
    gate.await_jobs("j1")
    lab.await_states(1, j1="completed")
    lab.torc("recover", 1, "--dead", lab.runner())
    gate.open()
    runner.wait(3)  # the other workflow's job is held
    recorded = [(each["attempt"], each["outcome"]) for each in lab.torc("-f", "json", "results", "list", 2).json]
    assert recorded == [(1, "completed")]
    lab.check(2)


def test_a_runner_without_a_record_is_taken_back_when_a_person_says_so(lab: Lab, wreck: Wreck) -> None:
    wreck.record.unlink()
    lab.run(1, code=3)
    lab.torc("recover", 1, "--dead", wreck.runner)
    lab.run(1)
    lab.check()


def test_many_runners_recover_at_once_and_each_job_is_given_back_once(lab: Lab) -> None:
    wreck = Wreck(lab)
    runners: list[Background] = [lab.start("run", 1) for _ in range(4)]
    for runner in runners:
        runner.wait(None)
    for name in ("j1", "j2"):
        assert [(row["attempt"], row["outcome"]) for row in lab.job(name)["attempts"]] == [(1, None), (2, "completed")]
    assert all(map(gone, wreck.pids))
    lab.check()


@pytest.mark.slow
def test_two_deaths_in_a_row_are_both_recorded(lab: Lab) -> None:
    gate = Gate(lab.base, "deaths")
    lab.submit(f'touch "{lab.base}/at.$TORC_ATTEMPT_ID"; test $TORC_ATTEMPT_ID -gt 2 || {{ {gate.only_wait}; }}')
    for attempt in (1, 2):
        runner = lab.start("run", 1)
        wait_until((lab.base / f"at.{attempt}").exists, f"attempt {attempt} runs")
        runner.kill()
    lab.run(1)
    gate.close()
    attempts = lab.job("j1")["attempts"]
    assert [(row["attempt"], row["outcome"]) for row in attempts] == [(1, None), (2, None), (3, "completed")]
    assert lab.check() is None
