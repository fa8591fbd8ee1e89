"""A watch goes on until the workflow is finished, helps on the way, and may be killed at any time."""

from __future__ import annotations

import os
import signal
import sys

import cliutil
import pytest
from cliutil import Lab, wait_until
from test_allocation_deaths import SMALL, Site

from torc_spool import scheduling, watching
from torc_spool.spool import Spool

lab = cliutil.lab


@pytest.fixture
def site(lab: Lab) -> Site:
    return Site(lab)


def test_a_watch_that_only_looks_reports_what_would_help(lab: Lab) -> None:
    lab.submit({"name": "wrong", "command": "exit 3"}, {"name": "right", "command": "true"})
    early = lab.torc("watch", 1, "--timeout", 0, "-f", "json", code=4)
    assert (early.json["finished"], early.json["exit_code"]) == (False, 4)
    assert "no runner is at work; start one with" in early.stderr
    lab.submit("true", slurm_schedulers=SMALL)
    idle = lab.torc("watch", 2, "--timeout", 0, code=4).stderr
    assert ": torc-spool run 2, or in allocations: torc-spool slurm schedule-nodes 2\n" in idle
    lab.run(1, code=1)
    done = lab.torc("watch", 1, code=1)
    assert "2 jobs: 1 completed, 1 failed" in done.stdout
    assert "it failed for a reason that more memory or time does not mend" in done.stdout
    assert "of use only with --recover" in lab.torc("watch", 1, "--max-retries", 1, code=2).sentence()


def test_a_watch_that_helps_goes_on_after_it_was_killed_until_all_is_done(lab: Lab) -> None:
    gate = lab.gate()
    eat = f"{sys.executable} -c 'import time; x = bytearray(70 << 20); time.sleep(2)'"
    lab.submit(
        {"name": "hungry", "command": eat, "resource_requirements": "little"},
        {"name": "killer", "command": f"test $TORC_ATTEMPT_ID -gt 1 || {{ {gate.only_wait}; kill -9 $PPID; }}"},
        resource_requirements=[{"name": "little", "memory": "64m"}],
    )
    runner = lab.start("run", 1, "--num-cpus", 2)
    first = lab.start("watch", 1, "--recover", "-p", 0.1)
    wait_until(lambda: "job hungry (out_of_memory) runs again: memory 64 MiB -> 96 MiB" in first.stderr, "it is helped")
    first.kill()
    gate.open()
    runner.wait(-signal.SIGKILL)
    second = lab.start("watch", 1, "--recover", "-p", 0.1, "-f", "json")
    wait_until(lambda: "is dead: process" in second.stderr, "the work of the dead is taken back")
    lab.run(1)
    done = second.wait(0).json
    assert done["finished"]
    assert done["failures"] == []
    assert done["causes"]["out_of_memory"] == 1
    assert done["causes"]["runner_died"] >= 1
    lab.check()


def test_nodes_are_asked_for_when_none_are_left_and_once_whoever_is_killed(lab: Lab, site: Site) -> None:
    lab.submit({"name": "j1", "command": "true", "slurm_scheduler": "small"}, slurm_schedulers=SMALL)
    store = Spool(str(lab.spool)).open_to_change(1)
    key = watching.next_key(scheduling.tag(store), [], "small")
    marks = lab.base / "marks"
    marks.write_text("")

    def queue(*rows: dict[str, object]) -> None:
        site.queue(*rows)
        shown = f'echo "$(<{lab.base}/queue)"'
        site.command("squeue", f'case "$*" in *"%A %r %k"*) echo "$(<{marks})";; *) {shown};; esac')

    queue()
    marks.write_text(f"100 torc-spool:1:{key}\n")  # of a watch that was killed before it could note that
    once = lab.torc("watch", 1, "--recover", "--timeout", 0, code=4)
    assert "no nodes were left: allocation 100 of scheduler small is asked for" in once.stderr
    assert site.called("sbatch") == []
    queue({"job": 100, "state": "PENDING", "comment": f"torc-spool:1:{key}"})
    lab.torc("watch", 1, "--recover", "--timeout", 0, code=4)
    assert site.called("sbatch") == []
    queue({"job": 100, "state": "CANCELLED", "comment": f"torc-spool:1:{key}"})
    again = lab.torc("watch", 1, "--recover", "--timeout", 0, "-n", 2, code=4)
    assert len(site.called("sbatch")) == 2
    assert "allocation 102 of scheduler small" in again.stderr


def test_one_watch_asks_at_a_time_and_what_is_due_is_asked_for_too(lab: Lab, site: Site) -> None:
    due = {"trigger_type": "on_workflow_start", "action_type": "schedule_nodes", "scheduler": "small"}
    later = {**due, "trigger_type": "on_jobs_complete", "jobs": ["j1"]}
    lab.submit(
        {"name": "j1", "command": "true", "slurm_scheduler": "small"}, slurm_schedulers=SMALL, actions=[due, later]
    )
    site.queue()
    site.command("sbatch", "echo 'sbatch: error: Unable to contact slurm controller' >&2; exit 1")
    refused = lab.torc("watch", 1, "--recover", "--timeout", 0, code=4)
    assert "no nodes are asked for now: sbatch: Unable to contact slurm controller" in refused.stderr
    site.command("sbatch", "echo 101")
    site.queue({"job": 101, "state": "PENDING", "name": "torc-spool-1-small"})
    done = lab.torc("watch", 1, "--recover", "--timeout", 0, code=4)
    assert "an action is due: allocation 101 of scheduler small is asked for" in done.stderr
    site.command("squeue", "true")  # Slurm has forgotten it
    asked = len(site.called("sbatch"))
    with scheduling.turn(Spool(str(lab.spool)).open_to_change(1)) as is_ours:
        assert is_ours
        assert "is asked for" not in lab.torc("watch", 1, "--recover", "--timeout", 0, code=4).stderr
    assert len(site.called("sbatch")) == asked
    site.command("sbatch", "echo 102")
    again = lab.torc("watch", 1, "--recover", "--timeout", 0, code=4)
    assert "no nodes were left: allocation 102 of scheduler small is asked for" in again.stderr
    assert [name for name in os.listdir(lab.root() / "slurm") if name.startswith(".")] == []


def test_nodes_of_which_nothing_comes_are_not_asked_for_without_end(lab: Lab, site: Site) -> None:
    lab.submit({"name": "j1", "command": "true"}, slurm_schedulers=SMALL)
    site.queue()
    site.command("squeue", "true")  # whatever is asked for has ended, and is forgotten
    done = lab.torc("watch", 1, "--recover", "-p", 0.1, code=3)
    assert f"{watching.FRUITLESS} times in a row nodes were asked for and no job has ended" in done.stderr
    assert len(site.called("sbatch")) == watching.FRUITLESS


def test_a_key_is_the_same_until_one_of_it_is_recorded() -> None:
    assert watching.next_key("ab", [], "gpu x") == "ab-w1.gpu_x"
    assert watching.next_key("ab", ["ab-w1.other", "cd-w7.gpu_x", "ab-a1.1"], "gpu x") == "ab-w1.gpu_x"
    assert watching.next_key("ab", ["ab-w1.gpu_x", "ab-w1.gpu_x", "ab-w9.gpu_x"], "gpu x") == "ab-w10.gpu_x"
