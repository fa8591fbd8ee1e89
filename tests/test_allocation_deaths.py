"""Runners of allocations that have ended, by commands of Slurm that stand in for the real ones."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import cliutil
import pytest
from cliutil import Lab

from torc_spool import recovery, squeue
from torc_spool.actor import user_name
from torc_spool.squeue import Inquiry

lab = cliutil.lab

WIDTHS = (20, 20, 12, 24, 24, 24, 60, 60, 400, 200, 400)
SMALL = [{"name": "small", "walltime": 5}]


class Site:
    """A directory of commands; `sbatch` numbers allocations from 101, and each call is written down."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.bin, self.calls = lab, lab.base / "bin", lab.base / "calls"
        self.bin.mkdir()
        self.command("sbatch", f"echo $((101 + $(grep -c ^sbatch {self.calls}) - 1))")
        lab.env["PATH"] = f"{self.bin}:/usr/bin:/bin"
        self.path = lab.env["PATH"]
        for absent in ("squeue", "scontrol", "sacct", "scancel"):
            self.command(absent, "echo 'cannot be reached' >&2; exit 1")

    def command(self, name: str, body: str) -> None:
        path = self.bin / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >>{self.calls}\n{body}\n')
        path.chmod(0o755)

    def queue(self, *rows: dict[str, Any]) -> None:
        """What squeue shows."""
        lines = []
        for row in rows:
            said = {"restarts": 0, "start": "N/A", "end": "N/A", "left": "1:00", "user": user_name(), **row}
            order = ("job", "state", "restarts", "start", "end", "left", "user", "reason", "nodes", "name", "comment")
            lines.append("".join(str(said.get(key, "")).ljust(width) for key, width in zip(order, WIDTHS, strict=True)))
        (self.lab.base / "queue").write_text("\n".join(lines) + "\n")
        self.command("squeue", f'echo "$(<{self.lab.base}/queue)"')
        self.command("scontrol", "echo 'ClusterName             = big'")

    def called(self, name: str) -> list[str]:
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ")]


@pytest.fixture
def site(lab: Lab) -> Site:
    return Site(lab)


def wreck(lab: Lab, *, silent_s: float = 0.0) -> str:
    """A runner of allocation 80 on another node, killed while it ran j1; its name."""
    gate = lab.gate()
    lab.submit({"name": "j1", "command": f"test $TORC_ATTEMPT_ID -gt 1 || {{ {gate.wait}; }}"}, slurm_schedulers=SMALL)
    process = lab.start("run", 1)
    gate.await_jobs("j1")
    runner = lab.runner()
    process.kill()
    directory = lab.root() / "runners" / runner
    record = json.loads((directory / "runner.json").read_text())
    elsewhere = {"host": "n7", "slurm_job_id": "80", "slurm_cluster": "big", "slurm_node": "n7", "slurm_restarts": 0}
    (directory / "runner.json").write_text(json.dumps({**record, **elsewhere}))
    then = os.stat(directory / "heartbeat").st_mtime - silent_s
    os.utime(directory / "heartbeat", (then, then))
    return runner


def test_what_ran_at_the_walltime_is_terminated(lab: Lab, site: Site) -> None:
    runner = wreck(lab)
    site.queue({"job": 80, "state": "TIMEOUT", "end": int(time.time())})
    shown = lab.torc("recover", 1, "--dry-run", "-f", "json").json
    (ahead,) = shown["failures"]  # what comes of it, and is run again in the same go
    assert (ahead["status"], ahead["cause"], ahead["action"]) == ("terminated", "allocation_ended", "retry")
    assert shown["runners"] == [{"name": runner, "evidence": "allocation 80 has ended, as squeue says: TIMEOUT"}]
    assert [row["action"] for row in shown["jobs"]] == ["terminate"]
    assert lab.states() == {"j1": "running"}
    lab.torc("recover", 1, "--no-retry")
    row = lab.jobs()["j1"]
    assert (row["status"], row["reason"], row["attempt"]) == ("terminated", "allocation 80 reached its walltime", 1)
    assert lab.job("j1")["attempts"][0]["start_time"] is not None
    lab.check()
    assert lab.torc("recover", 1, "-f", "json").json["failures"] == [ahead]
    lab.run(1, "--any-scheduler")
    assert lab.states() == {"j1": "completed"}
    lab.check()


@pytest.mark.parametrize("state", ["NODE_FAIL", "CANCELLED", "PREEMPTED"])
def test_what_ran_in_an_allocation_that_was_taken_away_runs_again(lab: Lab, site: Site, state: str) -> None:
    wreck(lab)
    site.queue({"job": 80, "state": state, "end": int(time.time())})
    lab.run(1)  # asks once, since it has nothing else to do
    lost, again = lab.job("j1")["attempts"]
    assert lost["outcome"] is None
    assert lost["reason"] == f"its runner died: allocation 80 has ended, as squeue says: {state}"
    assert (again["attempt"], again["outcome"]) == (2, "completed")
    assert len(site.called("squeue")) == 1
    lab.check()


def test_a_wish_to_cancel_holds_at_the_walltime_too(lab: Lab, site: Site) -> None:
    wreck(lab)
    lab.torc("cancel", 1, "j1")
    site.queue({"job": 80, "state": "TIMEOUT", "end": int(time.time())})
    lab.torc("recover", 1, "--no-retry")
    assert lab.states() == {"j1": "canceled"}


def test_sacct_is_asked_of_what_squeue_has_forgotten(lab: Lab, site: Site) -> None:
    runner = wreck(lab)
    site.queue()
    site.command("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert "no runner is known to be dead" in lab.torc("recover", 1).stderr  # no sacct, and it is not silent
    site.command("sacct", f"echo '80|TIMEOUT|1000|{int(time.time())}|{user_name()}|n7'")
    done = lab.torc("recover", 1, "--no-retry").stdout
    assert f"runner {runner} is dead: allocation 80 has ended, as sacct says: TIMEOUT" in done
    assert lab.states() == {"j1": "terminated"}


def test_without_sacct_what_is_forgotten_and_silent_is_dead(lab: Lab, site: Site) -> None:
    wreck(lab, silent_s=1000.0)
    site.queue()
    assert "allocation 80 is not known to squeue any more" in lab.torc("recover", 1).stdout
    assert lab.states() == {"j1": "ready"}


@pytest.mark.parametrize(
    "body",
    ["exec sleep 600", "echo 'Unable to contact slurm controller' >&2; exit 1", "echo nonsense", None],
    ids=["hangs", "fails", "speaks in tongues", "is absent"],
)
def test_who_cannot_ask_slurm_takes_nobody_for_dead(
    lab: Lab, site: Site, monkeypatch: pytest.MonkeyPatch, body: str | None
) -> None:
    runner = wreck(lab)
    site.queue()
    if body is None:
        monkeypatch.setenv("PATH", str(lab.base / "nowhere"))
    else:
        site.command("squeue", body)
        monkeypatch.setenv("PATH", site.path)
        monkeypatch.setattr(squeue, "ASK_TIMEOUT_S", 0.2 if "sleep" in body else 60.0)
    inquiry = Inquiry()
    (owner,) = recovery.scan(lab.store(), inquiry=inquiry)
    assert (owner.name, owner.state, owner.evidence) == (runner, "alive", None)
    assert inquiry.trouble is not None


# --- seen, and canceled


def scheduled(lab: Lab, site: Site) -> list[str]:
    lab.submit("true", slurm_schedulers=SMALL)
    found = lab.torc("slurm", "schedule-nodes", 1, "-n", 2).stdout.split()
    assert found == ["101", "102"]
    return found


def comments(lab: Lab) -> dict[str, str]:
    keys = {path.stem: json.loads(path.read_text())["key"] for path in (lab.root() / "slurm").iterdir()}
    return {job: f"torc-spool:1:{key}" for job, key in keys.items()}


def test_allocations_are_shown_without_slurm_too(lab: Lab, site: Site) -> None:
    lab.submit("true")
    assert "workflow 1 has no allocations" in lab.torc("slurm", "status", 1).stderr
    assert not site.called("squeue")
    lab.submit("true", slurm_schedulers=SMALL)
    lab.torc("slurm", "schedule-nodes", 2)
    done = lab.torc("slurm", "status", 2, "-f", "json")
    assert "the state of the allocations is not known: squeue: cannot be reached" in done.stderr
    (row,) = done.json
    assert (row["state"], row["reason"], row["num_nodes"]) == ("unknown", "Slurm did not answer", 1)
    assert "unknown" in lab.torc("slurm", "status", 2).stdout


def test_allocations_that_only_runners_tell_of_are_shown(lab: Lab, site: Site) -> None:
    runner = wreck(lab)
    site.queue({"job": 80, "state": "RUNNING", "left": "1-00:00:09", "nodes": "n7"})
    (row,) = lab.torc("slurm", "status", 1, "-f", "json").json
    assert (row["job_id"], row["state"], row["nodes"], row["time_left_s"]) == ("80", "RUNNING", "n7", 86409)
    assert (row["runners"], row["jobs"]["running"]) == ([{"name": runner, "state": "alive"}], 1)
    assert len(site.called("squeue")) == 1
    assert "24:00:09" in lab.torc("slurm", "status", 1).stdout
    path = lab.root() / "runners" / runner / "runner.json"  # in the shell of salloc, beside one that was submitted
    path.write_text(json.dumps({**json.loads(path.read_text()), "slurm_node": None}))
    lab.torc("slurm", "schedule-nodes", 1)
    assert [row["state"] for row in lab.torc("slurm", "status", 1, "-f", "json").json] == ["unknown", "RUNNING"]
    lab.torc("recover", 1, "--dead", runner)
    assert [len(row["runners"]) for row in lab.torc("slurm", "status", 1, "-f", "json").json] == [0, 1]


def test_canceling_a_workflow_cancels_its_allocations_pending_ones_first(lab: Lab, site: Site) -> None:
    scheduled(lab, site)
    said = comments(lab)
    site.queue(
        {"job": 101, "state": "RUNNING", "comment": said["101"]},
        {"job": 102, "state": "PENDING", "comment": said["102"]},
    )
    site.command("scancel", "")
    done = lab.torc("cancel", 1)
    assert done.stdout == "j1: canceled\n"
    assert done.stderr == "allocation 102 was PENDING, canceled\nallocation 101 was RUNNING, canceled\n"
    assert site.called("scancel") == ["--state=PENDING 102", "101 102"]


def test_allocations_that_have_ended_or_are_others_are_left_alone(lab: Lab, site: Site) -> None:
    scheduled(lab, site)
    said = comments(lab)
    site.queue(
        {"job": 101, "state": "COMPLETED", "comment": said["101"]},
        {"job": 102, "state": "RUNNING", "comment": "another one of that number"},
    )
    site.command("scancel", "")
    assert lab.torc("cancel", 1).stderr == ""
    assert not site.called("scancel")
    rows = lab.torc("slurm", "status", 1, "-f", "json").json
    assert [row["state"] for row in rows] == ["COMPLETED", "unknown"]
    assert rows[1]["reason"] == "Slurm has given its number to another job"


@pytest.mark.parametrize("words", [["--keep-allocations"], ["j1"]])
def test_allocations_stay_when_that_is_wanted_or_jobs_are_named(lab: Lab, site: Site, words: list[str]) -> None:
    scheduled(lab, site)
    said = comments(lab)
    site.queue(*({"job": job, "state": "RUNNING", "comment": comment} for job, comment in said.items()))
    site.command("scancel", "")
    assert lab.torc("cancel", 1, *words).stdout == "j1: canceled\n"
    assert not site.called("scancel")


def test_a_refusal_of_scancel_is_said_and_jobs_are_canceled_all_the_same(lab: Lab, site: Site) -> None:
    scheduled(lab, site)
    done = lab.torc("cancel", 1, "--keep-allocations")
    assert done.stdout == "j1: canceled\n"
    assert "allocations of the workflow are not canceled: squeue: cannot be reached" in lab.torc("cancel", 1).stderr
    said = comments(lab)
    site.queue({"job": 101, "state": "RUNNING", "comment": said["101"]})
    site.command("scancel", "echo 'scancel: error: Kill job error on job id 101: Access denied' >&2; exit 1")
    refused = "allocation 101 is not canceled: scancel: Kill job error on job id 101: Access denied"
    assert refused in lab.torc("cancel", 1).stderr
    (site.bin / "scancel").unlink()
    absent = "allocation 101 is not canceled: scancel: is not installed here"
    assert absent in lab.torc("cancel", 1, env={"PATH": str(site.bin)}).stderr
