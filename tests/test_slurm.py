"""Commands of Slurm that stand in for the real ones: what is called, and what becomes of each kind of answer."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import cliutil
import pytest
import spooltools
from cliutil import Lab

from torc_spool import allocations, doubts, executor, sbatch, slurm
from torc_spool.capacity import Capacity
from torc_spool.errors import SlurmError
from torc_spool.options import Options
from torc_spool.runner import Runner
from torc_spool.siteprofile import Partition
from torc_spool.spool import Spool

lab = cliutil.lab

LONG: dict[str, Any] = {"resource_requirements": [{"name": "long", "runtime": "PT1M"}]}
TWO = [{"name": "small", "account": "proj", "walltime": 5}, {"name": "big", "nodes": 2, "extra": "--exclusive"}]


class Site:
    """A directory of commands; each writes down how it was called."""

    def __init__(self, directory: Path) -> None:
        self.bin, self.calls = directory / "bin", directory / "calls"
        self.bin.mkdir()
        self.calls.mkdir()

    def command(self, name: str, body: str) -> None:
        path = self.bin / name
        path.write_text(
            f"#!/bin/bash\nat=$(mktemp -d {self.calls}/{name}.XXXXXX)\n"
            f'printf "%s\\n" "$@" >$at/words; cat >$at/stdin; env >$at/environ\n{body}\n'
        )
        path.chmod(0o755)

    def called(self, name: str, what: str = "words") -> list[str]:
        return [(each / what).read_text() for each in sorted(self.calls.glob(f"{name}.*"), key=_made)]

    def environ(self) -> dict[str, str]:
        return {"PATH": f"{self.bin}:/usr/bin:/bin"}


def _made(path: Path) -> int:
    return path.stat().st_mtime_ns


@pytest.fixture
def site(tmp_path: Path) -> Site:
    place = Site(tmp_path)
    counter = tmp_path / "count"
    place.command("sbatch", f"echo x >>{counter}; echo $((100 + $(wc -l <{counter})))")
    return place


def test_allocations_are_submitted_and_remembered(lab: Lab, site: Site) -> None:
    lab.submit("true", slurm_schedulers=TWO, slurm_defaults={"qos": "high"})
    done = lab.torc("slurm", "schedule-nodes", 1, "--scheduler", "small", "--num-hpc-jobs", 2, env=site.environ())
    assert done.stdout == "101\n102\n"
    assert "submitted 2 allocations of 1 node for scheduler small" in done.stderr
    assert site.called("sbatch") == ["--parsable\n"] * 2
    first, second = site.called("sbatch", "stdin")
    assert first == second
    assert "#SBATCH --qos=high\n" in first
    assert (
        f"exec {cliutil.PROGRAMS}/torc-spool --spool {lab.spool} run 1 --scheduler small --grace 10 --leave-to-others\n"
        in first
    )
    assert lab.ls("slurm") == ["101.json", "102.json"]
    found = allocations.recorded(lab.store())
    assert [each.job_id for each in found] == ["101", "102"]
    assert (found[0].scheduler, found[0].nodes, found[0].walltime_s) == ("small", 1, 300)
    assert f"--comment=torc-spool:1:{found[0].key}\n" in first
    assert found[0].output == f"{lab.root()}/output/slurm_output_wf1_sl101.o"


def test_schedulers_are_numbered_and_options_win_over_them(lab: Lab, site: Site) -> None:
    lab.submit("true", slurm_schedulers=TWO)
    words = "--scheduler-config-id 2 --account mine --partition long --walltime 1-00 --max-parallel-jobs 8"
    output = lab.base / "the output"
    done = lab.torc(
        "-f", "json", "slurm", "schedule-nodes", 1, *words.split(), "--output-dir", output,
        "--start-one-worker-per-node", env=site.environ(),
    )  # fmt: skip
    row = done.json
    assert (row["workflow_id"], row["scheduler"], row["dry_run"]) == (1, "big", False)
    (allocation,) = row["allocations"]
    assert allocation["asked"] == {
        "nodes": "2", "time": "1-00", "exclusive": None, "account": "mine", "partition": "long",
    }  # fmt: skip
    assert output.is_dir()  # Slurm would not make it
    (script,) = site.called("sbatch", "stdin")
    assert f'#SBATCH --output="{output}/slurm_output_wf1_sl%j.o"' in script
    assert f"--max-parallel-jobs 8 --output-dir '{output}' --num-nodes 1\n" in script


def test_the_lease_of_runners_is_an_option_and_a_variable(lab: Lab, site: Site) -> None:
    lab.submit("true", slurm_schedulers=TWO[:1])
    assert " --lease 600\n" in lab.torc("slurm", "script", 1, "--lease", 600).stdout
    assert " --lease 90\n" in lab.torc("slurm", "script", 1, env={"TORC_SPOOL_LEASE": "90"}).stdout
    assert "give 75 s or more" in lab.torc("slurm", "schedule-nodes", 1, "--lease", 5, code=2).sentence()
    lab.torc("slurm", "schedule-nodes", 1, env={**site.environ(), "TORC_SPOOL_LEASE": "90"})
    assert "TORC_SPOOL_LEASE=90\n" in site.called("sbatch", "environ")[0]
    lab.torc("run", 1, "--scheduler", 1, env={"TORC_SPOOL_LEASE": "90"})
    (record,) = lab.root().glob("runners/*/runner.json")
    assert json.loads(record.read_text())["lease_s"] == 90


def test_the_only_scheduler_need_not_be_named(lab: Lab, site: Site) -> None:
    lab.submit("true", slurm_schedulers=TWO)
    done = lab.torc("slurm", "schedule-nodes", 1, code=2, env=site.environ())
    assert done.sentence() == "name a scheduler of workflow 1 with --scheduler; it has: 1 small, 2 big"
    lab.submit("true", slurm_schedulers=TWO[:1])
    assert lab.torc("slurm", "schedule-nodes", 2, env=site.environ()).stdout == "101\n"
    lab.submit("true")
    assert "it has: none" in lab.torc("slurm", "schedule-nodes", 3, code=2, env=site.environ()).sentence()


def test_a_dry_run_shows_the_script_and_submits_nothing(lab: Lab, site: Site) -> None:
    lab.submit("true", slurm_schedulers=TWO)
    dry = lab.torc("slurm", "schedule-nodes", 1, "--scheduler", 1, "--dry-run", env=site.environ())
    shown = lab.torc("slurm", "script", 1, "--scheduler", 1).stdout
    assert without_key(dry.stdout) == without_key(shown)
    assert shown.startswith("#!/bin/bash\n#SBATCH ")
    assert lab.torc("-f", "json", "slurm", "script", 1, "--scheduler", 1).json["script"].startswith("#!/bin/bash\n")
    row = lab.torc("-f", "json", "slurm", "schedule-nodes", 1, "--scheduler", 1, "--dry-run").json
    assert (row["dry_run"], row["allocations"]) == (True, [])
    assert not site.called("sbatch")
    assert not (lab.root() / "slurm").exists()


def without_key(script: str) -> list[str]:
    return [line for line in script.splitlines() if "--comment=" not in line]


def test_one_runner_for_several_nodes_is_remarked_upon(lab: Lab) -> None:
    lab.submit("true", slurm_schedulers=TWO)
    assert "one runner for all 2 nodes" in lab.torc("slurm", "script", 1, "--scheduler", "big").stderr
    each = lab.torc("slurm", "script", 1, "--scheduler", "big", "--start-one-worker-per-node")
    assert not each.stderr


def test_a_refusal_is_passed_on_with_slurms_own_words_and_a_hint(lab: Lab, site: Site) -> None:
    lab.submit("true", slurm_schedulers=TWO[:1])
    said = "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified"
    site.command("sbatch", f'echo "{said}" >&2; exit 1')
    sentence = lab.torc("slurm", "schedule-nodes", 1, code=2, env=site.environ()).sentence()
    assert sentence.startswith("sbatch: Batch job submission failed: Invalid account or account/partition combination")
    assert "; name one of yours: --account" in sentence
    assert allocations.recorded(lab.store()) == []


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)", "--num-hpc-jobs"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "--walltime"),
        ("User's group not permitted to use this partition", "--partition"),
        ("Invalid qos specification", "`qos`"),
    ],
)
def test_a_hint_is_about_what_slurm_says(said: str, what: str) -> None:
    assert what in (slurm.hint(f"Batch job submission failed: {said}") or "")


PARTITIONS = (
    Partition("short", 4, 8000, 0, 2, 3600, is_default=True),
    Partition("mixed", 4, 8000, 0, 2, None, max_nodes=2),
    Partition("mixed", 16, None, 2, 1, None, max_nodes=2),
)


@pytest.mark.parametrize(
    ("asked", "doubt"),
    [
        ({"nodes": 2, "cpus_per_task": 2, "ntasks_per_node": 2, "mem": "7G", "walltime": 60}, None),
        ({"nodes": 3}, "3 nodes, and partition short gives 2"),
        ({"walltime": "01:01:00"}, "a walltime of 01:01:00, and partition short allows 01:00:00"),
        ({"walltime": "UNLIMITED"}, "a walltime of UNLIMITED, and partition short allows"),
        ({"ntasks": 30}, "30 cpus on a node, and those of partition short have 4"),
        ({"mem": "8T"}, "8388608 MiB on a node, and those of partition short have 8000"),
        (
            {"partition": "short,mixed", "nodes": 3},
            "3 nodes, and partition short gives 2; it asks for 3 nodes, and par",
        ),
        ({"partition": "short,mixed", "walltime": "UNLIMITED", "mem": "1T", "cpus_per_task": 16}, None),
        ({"partition": "hidden", "nodes": 99}, None),
        ({"clusters": "other", "nodes": 99}, None),
    ],
)
def test_what_may_wait_for_ever_is_said_beforehand(asked: dict[str, Any], doubt: str | None) -> None:
    found = doubts.about(sbatch.options({"name": "s", **asked}), PARTITIONS)
    assert found is None if doubt is None else f"it asks for {doubt}" in (found or "")


def test_a_doubt_is_told_and_slurm_is_asked_nevertheless(lab: Lab, site: Site) -> None:
    lab.submit("true", slurm_schedulers=TWO)
    site.command("sinfo", "echo 'all|all*|up|64|8000|(null)|1|infinite|n/a|1-infinite'")
    done = lab.torc("-f", "json", "slurm", "schedule-nodes", 1, "--scheduler", "big", env=site.environ())
    assert "note: this may wait for ever: it asks for 2 nodes, and partition all gives 1" in done.stderr
    assert (len(done.json["notes"]), len(done.json["allocations"])) == (1, 1)
    site.command("sinfo", "echo garbage")
    again = lab.torc("-f", "json", "slurm", "schedule-nodes", 1, "--scheduler", "big", env=site.environ())
    assert (again.json["notes"], len(again.json["allocations"])) == ([], 1)


def test_those_before_a_refusal_are_remembered(lab: Lab, site: Site) -> None:
    lab.submit("true", slurm_schedulers=TWO[:1])
    site.command(
        "sbatch", f"[ $(ls {site.calls} | wc -l) = 1 ] && echo 7 && exit; echo 'sbatch: error: full' >&2; exit 1"
    )
    done = lab.torc("slurm", "schedule-nodes", 1, "-n", 3, code=2, env=site.environ())
    assert done.stdout == "7\n"
    assert done.stderr == "1 of 3 allocations were submitted\ntorc-spool: sbatch: full\n"
    assert lab.ls("slurm") == ["7.json"]


def test_without_sbatch_that_is_said(lab: Lab, tmp_path: Path) -> None:
    lab.submit("true", slurm_schedulers=TWO[:1])
    done = lab.torc("slurm", "schedule-nodes", 1, code=2, env={"PATH": str(tmp_path)})
    assert done.sentence().startswith("sbatch: is not installed here, or not on the PATH")


@pytest.mark.parametrize("answer", ["", "Submitted batch job 7", "0"])
def test_an_answer_that_is_no_number_is_no_allocation(lab: Lab, site: Site, answer: str) -> None:
    lab.submit("true", slurm_schedulers=TWO[:1])
    site.command("sbatch", f"echo '{answer}'")
    assert "is no number of an allocation" in lab.torc("slurm", "schedule-nodes", 1, code=2, env=site.environ()).stderr


def test_a_federation_names_the_cluster(lab: Lab, site: Site) -> None:
    lab.submit("true", slurm_schedulers=TWO[:1])
    site.command("sbatch", "echo '7;emmy'")
    lab.torc("slurm", "schedule-nodes", 1, env=site.environ())
    assert json.loads((lab.root() / "slurm" / "7.json").read_text())["cluster"] == "emmy"


def test_a_number_that_was_there_before_is_not_written_over(lab: Lab, site: Site) -> None:
    lab.submit("true", slurm_schedulers=TWO[:1])
    site.command("sbatch", "echo 7")
    lab.torc("slurm", "schedule-nodes", 1, env=site.environ())
    before = (lab.root() / "slurm" / "7.json").read_bytes()
    sentence = lab.torc("slurm", "schedule-nodes", 1, code=2, env=site.environ()).sentence()
    assert "allocation 7, which was submitted nevertheless" in sentence
    assert (lab.root() / "slurm" / "7.json").read_bytes() == before


def test_what_is_no_record_of_an_allocation_is_left_out(lab: Lab, site: Site) -> None:
    lab.submit("true", slurm_schedulers=TWO[:1])
    lab.torc("slurm", "schedule-nodes", 1, env=site.environ())
    (lab.root() / "slurm" / "note.txt").write_text("mine")
    (lab.root() / "slurm" / "8.json").write_text('{"job_id"')
    assert [each.job_id for each in allocations.recorded(lab.store())] == ["101"]


def test_nothing_is_submitted_for_a_finished_workflow(lab: Lab, site: Site) -> None:
    lab.submit("true", slurm_schedulers=TWO[:1])
    lab.run(1)
    assert "workflow 1 is finished" in lab.torc("slurm", "schedule-nodes", 1, code=2, env=site.environ()).sentence()
    assert not site.called("sbatch")


def test_a_directory_of_the_submit_that_is_gone_is_said_before_slurm_is_asked(lab: Lab, site: Site) -> None:
    lab.submit("true", slurm_schedulers=TWO[:1])
    lab.cwd.rename(lab.base / "elsewhere")
    done = lab.torc("slurm", "schedule-nodes", 1, code=2, env=site.environ(), cwd=lab.base)
    assert "where the workflow was submitted and its jobs run, is not there" in done.sentence()
    assert not site.called("sbatch")


def test_what_is_around_us_does_not_reach_the_allocation(lab: Lab, site: Site) -> None:
    lab.submit("true", slurm_schedulers=TWO[:1])
    inherited = {
        "SLURM_MEM_PER_CPU": "1", "SLURM_CONF": "/etc/slurm.conf", "SBATCH_ACCOUNT": "other", "SBATCH_RESERVATION": "r",
        "TORC_RUNNER": "x-1-00000000", "TORC_TASK": "t", "MINE": "1",
    }  # fmt: skip
    lab.torc("slurm", "schedule-nodes", 1, env={**site.environ(), **inherited})
    (text,) = site.called("sbatch", "environ")
    names = {line.partition("=")[0] for line in text.splitlines()}
    assert names & inherited.keys() == {"SLURM_CONF", "SBATCH_RESERVATION", "MINE"}


# -- what a runner asks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [("2:00", 120), ("1-00:00:00", 86_400), ("UNLIMITED", None), ("0:00", 0), ("INVALID", 0)],
)
def test_the_time_left_is_what_squeue_says(site: Site, answer: str, seconds: int | None) -> None:
    site.command("squeue", f"printf '81 9:59\\n80 {answer}\\n'")  # an array, whose last task has its number
    environ = {**site.environ(), "SQUEUE_PARTITION": "debug"}
    assert slurm.seconds_left("80", environ) == seconds
    assert site.called("squeue") == ["--noheader\n--jobs=80\n--format=%A %L\n"]
    assert "SQUEUE_PARTITION" not in site.called("squeue", "environ")[0]


def test_who_does_not_answer_in_time_is_given_up(site: Site) -> None:
    site.command("squeue", "exec sleep 600")
    with pytest.raises(SlurmError, match=r"did not answer within 0\.2 s"):
        slurm.call(["squeue"], environ=site.environ(), timeout_s=0.2)


def test_a_runner_asks_once_and_ends_before_its_allocation(lab: Lab, site: Site) -> None:
    lab.submit("true", {"name": "long", "resource_requirements": "long"}, **LONG)
    site.command("squeue", "echo 1:00")
    environ = {**site.environ(), "SLURM_JOB_ID": "80"}
    done = lab.run(1, code=3, env=environ)
    assert "left: job long may run for 60 s" in done.stderr
    assert len(site.called("squeue")) == 1
    (record,) = (lab.root() / "runners").glob("*/runner.json")
    assert json.loads(record.read_text())["slurm_job_id"] == "80"


def test_a_runner_goes_on_when_slurm_does_not_answer(lab: Lab, site: Site) -> None:
    lab.submit("true")
    site.command("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    done = lab.run(1, env={**site.environ(), "SLURM_JOB_ID": "80"})
    assert "the end of this allocation is not known: squeue: slurm_load_jobs error: Unable to contact" in done.stderr


def test_the_signal_of_slurm_gives_jobs_their_notice(lab: Lab) -> None:
    lab.submit("trap 'exit 0' TERM; echo ready > started; while :; do sleep 0.01; done")
    runner = lab.start("run", 1, preexec_fn=lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN))
    cliutil.wait_until(lambda: (lab.cwd / "started").exists(), "the job runs")
    runner.signal(signal.SIGUSR1)
    runner.signal(signal.SIGUSR1)
    assert "SIGUSR1: the walltime is about to end" in runner.wait(4).stderr
    row = lab.jobs()["j1"]
    assert (row["status"], row["reason"]) == ("terminated", "the walltime of the allocation ended")


def test_who_cancels_jobs_and_their_allocation_sees_them_canceled(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(gate.wait)
    runner = lab.start("run", 1)
    gate.await_jobs("j1")
    runner.signal(signal.SIGSTOP)  # so that it learns of both at once
    lab.torc("cancel", 1)
    runner.signal(signal.SIGTERM)
    runner.signal(signal.SIGCONT)
    runner.wait(None)
    assert lab.states() == {"j1": "canceled"}


def in_allocation(left_s: int, **more: str) -> dict[str, str]:
    return {"SLURM_JOB_ID": "80", "SLURM_JOB_END_TIME": str(int(time.time()) + left_s), **more}


def test_at_the_notice_only_jobs_that_support_termination_must_end(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(
        {"name": "polite", "command": gate.wait, "supports_termination": True},
        {"name": "other", "command": gate.wait},
    )
    runner = lab.start("run", 1, "--num-cpus", 2, env=in_allocation(3600))
    gate.await_jobs("polite", "other")
    runner.signal(signal.SIGUSR1)
    lab.await_states(polite="terminated", other="running")
    gate.open()
    runner.wait(None)
    assert lab.states() == {"polite": "terminated", "other": "completed"}
    assert lab.job("polite")["reason"] == "the walltime of the allocation ended"


def test_who_is_spared_has_a_notice_of_its_own_at_last(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit({"name": "other", "command": gate.wait})
    runner = lab.start("run", 1, "--grace", 1, env=in_allocation(18))
    gate.await_jobs("other")
    runner.signal(signal.SIGUSR1)
    runner.wait(4)
    assert lab.job("other")["reason"] == "the walltime of the allocation ended"


def test_a_job_of_several_nodes_is_told_which_and_the_others_run_on_ours(lab: Lab) -> None:
    """Of three nodes the last two are the large job's, so that the small ones have the first meanwhile."""
    gate = lab.gate()
    show = f"echo $TORC_NUM_NODES $TORC_NODELIST; {gate.wait}"
    lab.submit(
        {"name": "small", "command": show},
        {"name": "large", "command": show, "resource_requirements": "two"},
        {"name": "late", "command": show},
        resource_requirements=[{"name": "two", "num_nodes": 2, "num_cpus": 1}],
    )
    nodes = {"SLURM_JOB_NUM_NODES": "3", "SLURM_JOB_NODELIST": "n[08-10]", "SLURMD_NODENAME": "n08"}
    runner = lab.start("run", 1, "--num-cpus", 1, env=in_allocation(3600, **nodes, TORC_NODELIST="x"))
    gate.await_jobs("small", "large")
    assert lab.states()["late"] == "ready"
    gate.open()
    runner.wait()
    said = {name: Path(lab.job(name)["stdout"]).read_text().strip() for name in ("small", "large", "late")}
    assert said == {"small": "", "large": "2 n09,n10", "late": ""}


@pytest.mark.parametrize(
    ("job", "in_allocation"),
    [
        ({"command": "kill -TERM $$"}, False),
        ({"command": "exit 3"}, True),
        ({"command": "exit 0", "supports_termination": True}, True),
    ],
    ids=["by SIGTERM", "of an allocation", "polite"],
)
def test_a_job_that_was_stopped_with_its_runner_has_neither_failed_nor_completed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, job: dict[str, Any], in_allocation: bool
) -> None:
    """Slurm stops all processes of an allocation at once, and jobs may be gone before their runner hears of it."""
    lab.submit({"name": "j", **job})
    monkeypatch.setattr(executor, "DOUBT_S", 3600.0)
    if in_allocation:
        monkeypatch.setenv("SLURMD_NODENAME", "n1")

    def prepare() -> Runner:
        def then_us(runner: Runner) -> None:
            if runner.executor._doubtful:
                os.kill(os.getpid(), signal.SIGTERM)

        return Runner(Spool(str(lab.spool)), Options(Capacity(1, 1000)), workflow_id=1, progress=then_us)

    ending = spooltools.in_child(prepare, lambda made: made.run())
    assert ending.how == "done", ending.text
    if not in_allocation:
        row = lab.jobs()["j"]
        assert (row["status"], row["reason"]) == ("terminated", "the runner was stopped by SIGTERM")
        return
    lab.torc("recover", 1)
    row = lab.job("j")
    assert (row["status"], row["attempt"]) == ("ready", 2)
    assert [attempt["outcome"] for attempt in row["attempts"]] == [None]


def test_whom_slurm_stops_at_the_walltime_terminates_its_jobs(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(gate.wait)
    runner = lab.start("run", 1, env=in_allocation(58, SLURMD_NODENAME="n1"))
    gate.await_jobs("j1")
    runner.signal(signal.SIGTERM)
    runner.wait(4)
    assert lab.job("j1")["reason"] == "the walltime of the allocation ended"


def test_a_job_that_fails_in_an_allocation_has_failed_all_the_same(lab: Lab) -> None:
    lab.submit("exit 3")
    lab.run(1, code=1, env={"SLURMD_NODENAME": "n1"})
    assert lab.jobs()["j1"]["reason"] == "return code 3"
