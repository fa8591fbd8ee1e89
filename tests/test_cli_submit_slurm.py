"""`submit-slurm` and `slurm generate` with a `sinfo` and an `sbatch` of our own on the PATH."""

from __future__ import annotations

import json
from pathlib import Path

import cliutil
import pytest
from cliutil import Lab

lab = cliutil.lab

SINFO = "short|short*|up|8|16000|(null)|4|4:00:00|n/a|1-infinite\\ngpu|gpu|up|8|16000|gpu:2|2|4:00:00|n/a|1-infinite\\n"
SPEC = """
name: p
resource_requirements: [{name: small, num_cpus: 2, memory: 1g, runtime: PT1H}]
jobs:
  - {name: first, command: "true", resource_requirements: small}
  - {name: last, command: "true", resource_requirements: small, depends_on: [first]}
"""


def program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/bash\n{body}")
    path.chmod(0o755)


@pytest.fixture
def slurm(lab: Lab) -> Path:
    """Where the scripts that were given to sbatch lie; whoever calls anything else than is known is told so."""
    bin_, given = lab.base / "bin", lab.base / "given"
    bin_.mkdir()
    given.mkdir()
    asked = "--noheader --exact --format=%R|%P|%a|%c|%m|%G|%D|%l|%L|%s"
    program(bin_ / "sinfo", f'[ "$*" = "{asked}" ] || exit 9\nprintf "{SINFO}"\n')
    program(
        bin_ / "sbatch",
        f'[ "$*" = "--parsable" ] || exit 9\n'
        f'if [ -e {given}/refuse ]; then echo "sbatch: error: Invalid account" >&2; exit 1; fi\n'
        f"n=$(($(ls {given} | wc -l) + 1))\ncat >{given}/$n\necho $n\n",
    )
    lab.env["PATH"] = f"{bin_}:{lab.env['PATH']}"
    (lab.cwd / "p.yaml").write_text(SPEC)
    return given


def test_submit_asks_for_the_nodes_of_the_start(lab: Lab, slurm: Path) -> None:
    done = lab.torc("submit-slurm", "p.yaml", "--account", "mine")
    assert done.stdout == "1\n"
    assert "when its jobs of stage 2 are ready" in done.stderr
    (script,) = slurm.iterdir()
    text = script.read_text()
    for line in ("account=mine", "partition=short", "time=01:30:00", "cpus-per-task=2", "mem=1152M"):
        assert f"#SBATCH --{line}\n" in text
    assert "run 1 --scheduler small_scheduler" in text
    states = {row["number"]: row["state"] for row in lab.torc("-f", "json", "actions", "list", "1").json}
    assert states == {1: "done", 2: "waiting"}


def test_a_dry_run_submits_nothing(lab: Lab, slurm: Path) -> None:
    done = lab.torc("submit-slurm", "p.yaml", "--dry-run")
    assert done.stdout.startswith("#!/bin/bash\n#SBATCH ")
    assert list(slurm.iterdir()) == []
    assert not lab.spool.exists()


def test_what_slurm_refuses_may_be_asked_for_again(lab: Lab, slurm: Path) -> None:
    (slurm / "refuse").touch()
    done = lab.torc("submit-slurm", "p.yaml", code=None)
    assert done.code != 0 and done.stdout == "1\n"
    assert "slurm schedule-nodes 1" in done.stderr and "Invalid account" in done.stderr
    states = {row["number"]: row["state"] for row in lab.torc("-f", "json", "actions", "list", "1").json}
    assert states[1] == "waiting"


def test_generate_writes_a_spec_that_submit_takes(lab: Lab, slurm: Path) -> None:
    lab.torc("slurm", "generate", "p.yaml", "-o", "made.yaml")
    row = lab.torc("-f", "json", "submit", "made.yaml", "--dry-run").json
    assert row["schedulers"] == ["small_scheduler"]
    assert list(slurm.iterdir()) == []
    shown = json.loads(lab.torc("-f", "json", "slurm", "generate", "p.yaml").stdout)
    assert [each["trigger"] for each in shown["plan"]] == ["on_workflow_start", "on_jobs_ready"]
    refused = lab.torc("slurm", "generate", "made.yaml", code=2)
    assert "--overwrite" in refused.stderr


def test_an_unknown_partition_is_refused(lab: Lab, slurm: Path) -> None:
    assert slurm.is_dir()
    done = lab.torc("slurm", "generate", "p.yaml", "--partition", "long", code=2)
    assert done.sentence() == "--partition: there is no 'long'; there are gpu, short"


def test_without_sinfo_a_profile_is_asked_for(lab: Lab) -> None:
    (lab.cwd / "p.yaml").write_text(SPEC)
    (lab.base / "empty").mkdir()
    lab.env["PATH"] = str(lab.base / "empty")
    assert "--profile FILE" in lab.torc("slurm", "generate", "p.yaml", code=2).stderr
