"""Actions that ask for allocations: once each, also when who performs them is killed. Slurm's commands stand in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cliutil
import pytest
from cliutil import Lab, wait_until

from torc_spool import actions, allocations, scheduling

lab = cliutil.lab

BIG = {"name": "big", "account": "proj", "nodes": 2}


class FakeSlurm:
    """An sbatch that can be held up before or after it has given an allocation, and an squeue that shows these."""

    def __init__(self, base: Path) -> None:
        self.base, self.bin, self.given = base, base / "bin", base / "given"
        self.bin.mkdir()
        self.given.mkdir()
        self._command(
            "sbatch",
            f"cd {base}; number=$((101 + $(ls given | wc -l))); cat >script; "
            'hold() { while [ -e "hold-$1-$number" ]; do : >"held-$1-$number"; sleep 0.05; done; }\n'
            "hold before; [ ! -e refuse ] || { cat refuse >&2; exit 1; }\n"
            "sed -n 's/^#SBATCH --comment=//p' script >asked.$$; "  # whoever is killed has given it, or has not
            "until ln asked.$$ given/$number; do number=$((number + 1)); done; hold after; echo $number",
        )
        self._command("squeue", f'cd {self.given}; for each in *; do echo "$each $(cat "$each")"; done')
        self._command("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
        self.environ = {"PATH": f"{self.bin}:/usr/bin:/bin"}

    def _command(self, name: str, body: str) -> None:
        (self.bin / name).write_text(f"#!/bin/bash\n{body}\n")
        (self.bin / name).chmod(0o755)

    def numbers(self) -> list[str]:
        return sorted(each.name for each in self.given.iterdir())

    def scripts(self) -> str:
        return (self.base / "script").read_text()


@pytest.fixture
def site(tmp_path: Path) -> FakeSlurm:
    (tmp_path / "site").mkdir()
    return FakeSlurm(tmp_path / "site")


def nodes(trigger: str = "on_workflow_start", **fields: Any) -> dict[str, Any]:
    return {"trigger_type": trigger, "action_type": "schedule_nodes", "scheduler": "big", **fields}


def submit(lab: Lab, *do: dict[str, Any], jobs: tuple[str, ...] = ("true",)) -> None:
    lab.submit(*jobs, slurm_schedulers=[BIG], actions=list(do))


def states(lab: Lab) -> list[str]:
    return [row["state"] for row in actions.rows(lab.store())]


def recorded(lab: Lab) -> list[str]:
    return [each.job_id for each in allocations.recorded(lab.store())]


def test_a_runner_asks_once_for_what_the_action_says(lab: Lab, site: FakeSlurm) -> None:
    submit(
        lab,
        nodes(num_allocations=2, start_one_worker_per_node=True, max_parallel_jobs=3),
        nodes("on_jobs_ready", jobs=["j2"]),
        jobs=("true", "true"),
    )
    lab.run(1, env=site.environ)
    assert (states(lab), recorded(lab)) == (["done", "done"], ["101", "102", "103"])
    found = allocations.recorded(lab.store())
    assert [each.max_parallel_jobs for each in found] == [3, 3, None]
    assert found[0].one_runner_per_node
    assert found[0].key == found[1].key != found[2].key
    assert set(lab.states().values()) == {"completed"}
    lab.run(1, env=site.environ)
    assert len(site.numbers()) == 3


def test_jobs_run_while_slurm_thinks_about_more_nodes(lab: Lab, site: FakeSlurm) -> None:
    submit(lab, nodes("on_jobs_ready", jobs=["j1", "j2"]), jobs=("true", "true"))
    hold = site.base / "hold-before-101"
    hold.touch()
    runner = lab.start("run", 1, env=site.environ)
    wait_until((site.base / "held-before-101").exists, "sbatch is held up")
    lab.await_states(j1="completed", j2="completed")
    assert states(lab) == ["running"]
    hold.unlink()
    runner.wait()
    assert (states(lab), recorded(lab)) == (["done"], ["101"])


def test_without_sbatch_the_jobs_run_and_the_action_waits(lab: Lab, site: FakeSlurm, tmp_path: Path) -> None:
    submit(lab, nodes(), nodes("on_jobs_complete", jobs=["j1"]), jobs=("echo",))
    done = lab.run(1, env={"PATH": str(tmp_path)})
    said = "action 1 (on_workflow_start) waits: sbatch is not installed here; where it is: torc-spool"
    assert done.stderr.count(said) == 1
    assert (states(lab), lab.states()) == (["waiting", "waiting"], {"j1": "completed"})
    (row, _) = actions.rows(lab.store())
    assert row["waits_for"] == "jobs to run: all have an outcome"
    refused = lab.torc("slurm", "schedule-nodes", 1, "--actions", code=2, env={"PATH": str(tmp_path)})
    assert "sbatch: is not installed here" in refused.sentence()


def test_a_refusal_is_told_in_slurms_words(lab: Lab, site: FakeSlurm) -> None:
    (site.base / "refuse").write_text("sbatch: error: Invalid account or account/partition combination specified\n")
    submit(lab, nodes())
    done = lab.run(1, env=site.environ)
    words = "sbatch: Invalid account or account/partition combination specified; name one of yours: --account"
    assert f"action 1 (on_workflow_start) failed: {words}" in done.stderr
    (row,) = actions.rows(lab.store())
    assert (row["state"], row["return_code"], lab.states()) == ("failed", 2, {"j1": "completed"})


def test_a_person_performs_what_is_due(lab: Lab, site: FakeSlurm) -> None:
    submit(lab, nodes(), nodes("on_jobs_ready", jobs=["j1"]), nodes("on_jobs_complete", jobs=["j1"]))
    call = ("slurm", "schedule-nodes", 1, "--actions")
    (site.base / "refuse").write_text("sbatch: error: no\n")
    assert "sbatch: no" in lab.torc(*call, code=2, env=site.environ).stderr
    assert states(lab) == ["waiting"] * 3
    (site.base / "refuse").unlink()
    assert lab.torc(*call, env=site.environ).stdout == "101\n102\n"
    assert states(lab) == ["done", "done", "waiting"]
    again = lab.torc("-f", "json", *call, env=site.environ)
    assert again.json == {"workflow_id": 1, "actions": [], "allocations": []}
    assert "--actions goes without --account" in lab.torc(*call, "--account", "x", code=2, env=site.environ).sentence()
    lab.run(1, env=site.environ)
    assert (states(lab), recorded(lab)) == (["done"] * 3, ["101", "102", "103"])


def test_what_slurm_has_refused_and_shows_as_failed_was_not_given(lab: Lab, site: FakeSlurm) -> None:
    (site.base / "refuse").write_text("sbatch: error: Requested node configuration is not available\n")
    shown = "s/^#SBATCH --comment=/101 BadConstraints /p"
    site._command("squeue", f"sed -n '{shown}' {site.base}/script")
    submit(lab, nodes())
    call = ("slurm", "schedule-nodes", 1, "--actions")
    assert "no node of that partition has so much" in lab.torc(*call, code=2, env=site.environ).sentence()
    assert (recorded(lab), states(lab)) == ([], ["waiting"])


def test_a_person_asks_later_for_the_rest_of_what_was_refused(lab: Lab, site: FakeSlurm) -> None:
    submit(lab, nodes(num_allocations=3))
    text = (site.bin / "sbatch").read_text()
    refuse = "[ $number = 101 ] || { echo 'sbatch: error: job submit limit' >&2; exit 1; }; hold before"
    (site.bin / "sbatch").write_text(text.replace("hold before", refuse))
    done = lab.torc("slurm", "schedule-nodes", 1, "--actions", code=2, env=site.environ)
    assert done.stdout == "101\n"
    assert states(lab) == ["interrupted"]
    (site.bin / "sbatch").write_text(text)
    assert lab.torc("slurm", "schedule-nodes", 1, "--actions", env=site.environ).stdout == "102\n103\n"
    assert (states(lab), recorded(lab)) == (["done"], ["101", "102", "103"])


BY_PERSON = ("slurm", "schedule-nodes", 1, "--actions")


@pytest.mark.parametrize("second", [("run", 1), BY_PERSON], ids=["runner", "person"])
@pytest.mark.parametrize("first", [("run", 1), BY_PERSON], ids=["runner", "person"])
@pytest.mark.parametrize("where", ["before-101", "after-101", "before-102", "after-102"])
def test_a_performer_is_killed(lab: Lab, site: FakeSlurm, where: str, first: Any, second: Any) -> None:
    submit(lab, nodes(num_allocations=2))
    hold = site.base / f"hold-{where}"
    hold.touch()
    killed = lab.start(*first, env=site.environ)
    wait_until((site.base / f"held-{where}").exists, "sbatch is held up")
    killed.kill()
    wait_until(lambda: states(lab) == ["interrupted"], "the performer is known to be dead")
    if second == BY_PERSON:
        hold.unlink()  # it finds what is there
    runner = lab.start(*second, env=site.environ)
    hold.unlink(missing_ok=True)
    done = runner.wait()
    assert (site.numbers(), recorded(lab), states(lab)) == (["101", "102"], ["101", "102"], ["done"]), done.stderr
    assert lab.ls("actions/running") == []
    lab.check()


def test_each_runner_may_ask_for_one(lab: Lab, site: FakeSlurm) -> None:
    submit(lab, nodes("on_worker_start"), jobs=("once", "true"))
    lab.run(1, code=1, env=site.environ)
    lab.torc("retry", 1)
    lab.run(1, code=1, env=site.environ)
    first, second = (each.key for each in allocations.recorded(lab.store()))
    assert first != second


def test_no_answer_does_not_mean_no_allocation(lab: Lab, site: FakeSlurm) -> None:
    submit(lab, nodes())
    text = (site.bin / "sbatch").read_text()
    (site.bin / "sbatch").write_text(text.replace("hold after", "echo 'sbatch: error: Socket timed out' >&2; exit 1"))
    lab.run(1, env=site.environ)
    assert (site.numbers(), recorded(lab), states(lab)) == (["101"], ["101"], ["done"])


def test_another_performance_has_another_key(lab: Lab, site: FakeSlurm) -> None:
    submit(lab, nodes())
    lab.run(1, env=site.environ)
    lab.torc("actions", "repeat", 1, 1)
    lab.torc("slurm", "schedule-nodes", 1, "--actions", env=site.environ)
    first, second = (each.key for each in allocations.recorded(lab.store()))
    assert (first.partition("-")[0], first[-5:], second[-5:]) == (second.partition("-")[0], "-a1.1", "-a1.2")
    (place,) = actions.lying(lab.store()).values()
    assert scheduling.key(lab.store(), place.name) == second
