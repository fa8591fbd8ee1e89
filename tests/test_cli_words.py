"""What commands take and what they say: options, hints, names of workflows."""

from __future__ import annotations

import cliutil
import pytest
from cliutil import Lab

lab = cliutil.lab


def test_commands_are_split_at_newlines_alone(lab: Lab) -> None:
    (lab.cwd / "cmds").write_bytes("echo a\u2028b\x0cc\x85d\re\r\necho f\n".encode())
    lab.torc("submit", "--commands", "cmds")
    assert [record.command for record in lab.store().records()] == ["echo a\u2028b\x0cc\x85d\re", "echo f"]


def test_commands_are_bound_to_a_scheduler(lab: Lab) -> None:
    (lab.cwd / "cmds").write_text("true\n")
    lab.torc("submit", "--commands", "cmds", "--scheduler", "gpu")
    assert lab.jobs()["job_000001"]["scheduler"] == "gpu"
    lab.run(1, "--scheduler", "gpu")


def test_no_more_gpus_are_given_than_the_variable_shows(lab: Lab) -> None:
    lab.submit("true")
    done = lab.torc("run", 1, "--num-gpus", 4, code=2, env={"CUDA_VISIBLE_DEVICES": "3,5"})
    assert done.sentence() == (
        "CUDA_VISIBLE_DEVICES=3,5 shows 2 GPUs, --num-gpus asks for 4; unset it or ask for at most 2"
    )
    lab.run(1, "--num-gpus", 2, env={"CUDA_VISIBLE_DEVICES": "3,5"})


def test_hints_name_the_spool_where_a_bare_command_would_look_elsewhere(lab: Lab) -> None:
    lab.submit("exit 1", {"name": "next", "depends_on": ["j1"]})
    assert "start one with: torc-spool run 1\n" in lab.torc("status", 1).stdout
    elsewhere = {"TORC_SPOOL_DIR": None}
    hint = f"start one with: torc-spool --spool {lab.spool} run 1\n"
    assert hint in lab.torc("status", 1, "--spool", lab.spool, env=elsewhere).stdout
    said = "workflow 1 is finished: 1 failed, 1 canceled; run them again with: torc-spool retry 1\n"
    assert said in lab.run(1, code=1).stderr
    assert said in lab.torc("wait", 1, code=1).stderr


def test_preview_says_why_it_shows_nothing(lab: Lab) -> None:
    lab.submit("true", {"name": "next", "depends_on": ["j1"]})
    lab.torc("hold", 1, "j1")
    assert lab.torc("preview", 1).stderr == "no job is ready: 1 held, 1 blocked\n"
    lab.torc("release", 1)
    lab.run(1)
    assert lab.torc("preview", 1).stderr == "the workflow is finished\n"


def test_a_workflow_is_named_by_its_directory_too(lab: Lab) -> None:
    lab.submit("true")
    assert "1 job: 1 ready" in lab.torc("status", "1-flow").stdout
    assert "1 ready" in lab.torc("status", f"{lab.spool}/1-flow/").stdout
    assert "is no workflow's directory in" in lab.torc("delete", "1-other", code=2).sentence()
    assert "is no workflow's directory in" in lab.torc("delete", f"{lab.base}/1-flow", code=2).sentence()
    assert "it is not a workflow's id" in lab.torc("run", "flow", code=2).sentence()
    lab.run("1-flow")


@pytest.mark.parametrize("option", ["--output-dir", "--name", "--spool", "--scheduler"])
def test_options_may_not_be_empty(lab: Lab, option: str) -> None:
    (lab.cwd / "cmds").write_text("true\n")
    assert f"{option}: is empty" in lab.torc("submit", "--commands", "cmds", option, "", code=2).sentence()
    assert not lab.spool.exists()
