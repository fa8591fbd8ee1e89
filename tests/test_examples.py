"""The examples run as their first lines say, and each shows what it is there to show."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cliutil
import psutil
import pytest
from cliutil import Done, Lab

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
SCRIPTS = [
    path for path in [*(ROOT / "scripts").iterdir(), ROOT / ".ci" / "run", *EXAMPLES.glob("*.sh")] if path.is_file()
]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A laboratory in a copy of the examples, with stand-ins that do not wait."""
    laboratory = Lab(tmp_path)
    laboratory.cwd.rmdir()
    shutil.copytree(EXAMPLES, laboratory.cwd, ignore=shutil.ignore_patterns("spool", "results"))
    laboratory.env |= {"STAND_IN_SECONDS": "0", "PATH": f"{cliutil.PROGRAMS}:{laboratory.env['PATH']}"}
    yield laboratory
    left = laboratory.close()
    assert not left, f"processes of jobs were left: {left}"


def follow(lab: Lab, name: str, *codes: int) -> list[Done]:
    """Do what the first comment of an example says; its commands end with these codes."""
    told = re.findall(r"^#   (torc-spool.*)$", (EXAMPLES / name).read_text(), re.MULTILINE)
    commands = [shlex.split(line, comments=True) for line in told]
    return [lab.torc(*words[1:], program=words[0], code=code) for words, code in zip(commands, codes, strict=True)]


def output(lab: Lab, job: str) -> str:
    return Path(lab.job(job)["stdout"]).read_text()


def test_every_spec_has_a_test_and_a_line_in_the_readme() -> None:
    readme, tests = (EXAMPLES / "README.md").read_text(), Path(__file__).read_text()
    for path in [*EXAMPLES.glob("*.yaml"), *EXAMPLES.glob("*.txt"), EXAMPLES / "sweep.py"]:
        assert f"({path.name})" in readme
        assert f'"{path.name}"' in tests


def test_resource_aware_runs_small_jobs_side_by_side_and_the_large_one_alone(lab: Lab) -> None:
    follow(lab, "resource_aware.yaml", 0)
    lab.torc("submit", "resource_aware.yaml")
    preview = lab.torc("-f", "json", "preview", 2, "--num-cpus", 2).json
    assert preview["claimed"] == ["preprocessing", "process_file_1"]
    done = lab.run(2, "--num-cpus", 1, code=3)
    assert "left: job model_training needs 2 cpus, the runner has 1" in done.stderr
    assert lab.states(2)["process_file_2"] == "completed"


def test_priority_prefers_what_fits(lab: Lab) -> None:
    _, two_cpus, one_cpu, _ = follow(lab, "priority.yaml", 0, 0, 0, 0)
    assert two_cpus.stdout.startswith("claim  train_model\n")
    assert one_cpu.stdout.splitlines()[0] == "claim  preprocess"
    assert "skip   train_model: needs 2 cpus, the runner has 1" in one_cpu.stdout
    assert lab.jobs()["train_model"]["start_time"] < lab.jobs()["preprocess"]["start_time"]


def test_schedulers_bind_jobs_to_their_runners(lab: Lab) -> None:
    _, unbound, gpu, highmem = follow(lab, "schedulers.yaml", 0, 3, 3, 0)
    assert "model_training is bound to scheduler gpu_cluster" in unbound.stderr
    assert "recorded: nothing" in unbound.stderr
    assert "recorded: 1 completed" in gpu.stderr
    assert "recorded: 1 completed" in highmem.stderr
    assert "GPUs of this job: 0,1" in output(lab, "model_training")


def test_queue_depth_ignores_resources(lab: Lab) -> None:
    follow(lab, "queue_depth.yaml", 0, 0)
    assert set(lab.states().values()) == {"completed"}
    assert Path(lab.job("process_file_1")["stdout"]).parent == lab.cwd / "results"


def test_sweep_is_built_and_run_by_a_program(lab: Lab) -> None:
    done = subprocess.run(
        [sys.executable, "sweep.py"],
        cwd=lab.cwd,
        env=lab.env,
        capture_output=True,
        text=True,
        timeout=cliutil.TIMEOUT_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [
        *(word for number in (1, 2, 3) for word in (f"process_{number}", "completed")),
        *("analyze", "completed"),
    ]
    assert output(lab, "analyze").startswith("1000 values")


def test_mixed_is_shared_by_runners_of_different_kinds(lab: Lab) -> None:
    _, any_job, gpu, highmem = follow(lab, "mixed.yaml", 0, 3, 3, 0)
    assert "recorded: 3 completed" in any_job.stderr
    assert "left: job report waits for model_training, large_analysis\n" in any_job.stderr
    assert "recorded: 1 completed" in gpu.stderr
    assert "recorded: 2 completed" in highmem.stderr
    assert output(lab, "model_training").startswith("y = 3.00 x + 2.00, from 200 points\n")
    assert output(lab, "large_analysis") == "200 values, mean 4.99, median 4.92\n"


def test_diamond_cancels_on_failure_and_a_retry_brings_it_back(lab: Lab) -> None:
    follow(lab, "diamond.yaml", 0)
    train = lab.cwd / "train.py"
    good = train.read_text()
    train.write_text("raise SystemExit(3)")
    lab.run("diamond.yaml", code=1)
    assert lab.states(2) == {
        "preprocess": "completed",
        "work_1": "failed",
        "work_2": "completed",
        "postprocess": "canceled",
        "cleanup": "completed",
    }
    train.write_text(good)
    lab.torc("retry", 2, "preprocess", code=2)
    lab.torc("retry", 2, "work_1")
    assert lab.states(2)["work_1"] == "ready"
    assert lab.states(2)["postprocess"] == "blocked"


def test_commands_need_no_spec(lab: Lab) -> None:
    follow(lab, "commands.txt", 0)
    lab.run(1)
    assert output(lab, "job_000003") == "FILE3.TXT PROCESSED\n"
    assert lab.root().name == "1-sweep"


def test_a_pipeline_expands_waits_for_files_retries_and_performs_its_actions(lab: Lab) -> None:
    plan, _ = follow(lab, "pipeline.yaml", 0, 0)
    assert plan.stdout.startswith("workflow pipeline: 9 jobs in 3 stages\n")
    assert lab.job("count_3")["attempt"] == 2
    assert output(lab, "count_3") == "recovering from 10\n"
    assert output(lab, "total") == "1000\n"
    assert (lab.cwd / "work" / "contents").read_text().split()[:2] == ["contents", "count_1.txt"]


# -- scripts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_executable_and_shell_scripts_stop_at_the_first_failure(script: Path) -> None:
    first = script.read_text().partition("\n")[0]
    assert first.startswith("#!/usr/bin/env ")
    assert os.access(script, os.X_OK)
    if first.endswith("bash"):
        assert "\nset -euo pipefail\n" in script.read_text()
        subprocess.run(["bash", "-n", script], check=True)


def demo(tmp_path: Path, **more: str) -> subprocess.Popen[str]:
    scratch = tmp_path / "a b"
    scratch.mkdir()
    environ = {key: value for key, value in os.environ.items() if not key.startswith("TORC_") and key != "HOME"}
    return subprocess.Popen(
        [ROOT / "scripts" / "demo"],
        cwd="/",
        env={**environ, "TORC_SPOOL_BIN": str(cliutil.PROGRAMS), "TMPDIR": str(scratch), **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        umask=0o077,
        process_group=0,
    )


@pytest.mark.slow
def test_the_demo_shows_the_spool_and_cleans_up(tmp_path: Path) -> None:
    process = demo(tmp_path)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0, printed
    before, between, after = re.split(r"^# (?:While they run|Afterwards):$", printed, flags=re.MULTILINE)
    assert "ready/any:\n999989-000000001.1-c1g0n1m64t300-preprocessing.json\n" in before
    assert re.search(r"^\$ ls spool/1-mixed/running/\*\n999", between, re.MULTILINE)
    assert "workflow 1 mixed: finished; 6 jobs: 6 completed" in after
    assert os.listdir(tmp_path / "a b") == []


@pytest.mark.slow
def test_an_interrupted_demo_leaves_nothing(tmp_path: Path) -> None:
    process = demo(tmp_path, STAND_IN_SECONDS="1000")
    assert process.stdout is not None
    for line in process.stdout:
        if "torc-spool wait" in line:
            break
    children = processes_below(tmp_path)
    assert len(children) > 3
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert os.listdir(tmp_path / "a b") == []
    assert not processes_below(tmp_path)


def processes_below(directory: Path) -> list[int]:
    """Processes that work in a directory below this one."""
    found = []
    for pid in psutil.pids():
        try:
            where = os.readlink(f"/proc/{pid}/cwd")
        except OSError:
            continue
        if where.startswith(f"{directory}/"):
            found.append(pid)
    return found


def env_script(tmp_path: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "scripts" / "env"],
        env={"PATH": os.environ["PATH"], "TORC_SPOOL_VENV": str(tmp_path / "environment"), **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_env_refuses_a_python_that_is_too_old(tmp_path: Path) -> None:
    old = program(tmp_path / "python2", "exit 1")
    done = env_script(tmp_path, PYTHON=str(old))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"scripts/env: PYTHON={old} is not a Python of at least 3.11\n"


@pytest.mark.parametrize("user", ["0", "1000"], ids=["root", "user"])
def test_env_without_the_venv_module_installs_it_or_says_what_to_install(tmp_path: Path, user: str) -> None:
    python = program(tmp_path / "python", "case $2 in *ensurepip*) exit 1 ;; *-venv*) echo python3.11-venv ;; esac")
    program(tmp_path / "id", f"echo {user}")
    program(tmp_path / "apt-get", f"echo apt-get $* >>'{tmp_path}/calls'; echo refused; exit 100")
    done = env_script(tmp_path, PYTHON=str(python), PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 2
    if user == "0":
        install = "apt-get install -y --no-install-recommends python3.11-venv\n"
        assert (tmp_path / "calls").read_text() == f"{install}apt-get update\n{install}"
        assert done.stderr.endswith("apt-get install python3.11-venv failed:\nrefused\nrefused\n")
    else:
        assert not (tmp_path / "calls").exists()
        assert "sudo apt-get install python3.11-venv" in done.stderr
    assert not (tmp_path / "environment").exists()
