"""What one attempt is given and leaves: environment, invocation script, and the files of its output."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import cliutil
import pytest
from cliutil import Lab

from torc_spool.digest import digest
from torc_spool.model import FailureHandler, Job, Rule, Stdio, StdioMode
from torc_spool.starter import command_text

lab = cliutil.lab


def job(command: str, name: str = "", **more: Any) -> Job:
    return Job(id=0, name=name, command=command, **more)


def said(lab: Lab, name: str = "j1") -> str:
    return Path(lab.job(name)["stdout"]).read_text()


# -- environment


def test_the_jobs_environment_wins_over_the_workflows_and_the_runners_own_variables_over_both(lab: Lab) -> None:
    theirs = {
        "TORC_JOB_ID": "7",
        "TORC_WORKFLOW_ID": "7",
        "TORC_SPOOL_DIR": "x",
        "TORC_TASK": "x",
        "TORC_OTHER": "kept",
    }
    show = 'echo "$A|$B|$C|$ö|$TORC_JOB_ID|$TORC_WORKFLOW_ID|$TORC_SPOOL_DIR|$TORC_OTHER|$CUDA_VISIBLE_DEVICES"'
    lab.submit_jobs(
        job(
            show.replace("$ö", "$(printenv ö)"),
            env={"B": "job", "ö": "ä $A 'q'\nz", "CUDA_VISIBLE_DEVICES": "7", **theirs},
        ),
        job(show.replace("$ö", "")),
        env={"A": "workflow", "B": "workflow", "TORC_RUNNER": "x", **theirs},
    )
    lab.run(1, "--num-gpus", 1, "--num-cpus", 1, env={"A": "runner", "B": "runner", "C": "runner", "LC_ALL": "C.UTF-8"})
    assert said(lab) == f"workflow|job|runner|ä $A 'q'\nz|1|1|{lab.spool}|kept|\n", "the GPUs are the runner's to give"
    assert said(lab, "j2") == f"workflow|workflow|runner||2|1|{lab.spool}|kept|\n"
    assert lab.job("j1")["env"]["A"] == "workflow"
    assert lab.left() == []


# -- the invocation script


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (None, "run it"),
        ("", "run it"),
        ("  \n", "run it"),
        ("./wrapper.sh", "./wrapper.sh run it"),
        ("#!/bin/bash\nset -e\n", "#!/bin/bash\nset -e\nrun it"),
        ("set -e\nA=1", "set -e\nA=1\nrun it"),
        ("A=1\n", "A=1\nrun it"),
        ("# a remark", "# a remark\nrun it"),
    ],
    ids=["none", "empty", "blank", "wrapper", "lines", "no newline at the end", "one whole line", "a remark"],
)
def test_the_invocation_script_is_placed_before_the_command(script: str | None, expected: str) -> None:
    assert command_text(job("run it", invocation_script=script)) == expected


def test_an_invocation_script_prepares_the_shell_or_wraps_the_command(lab: Lab) -> None:
    wrapper = lab.cwd / "wrapper.sh"
    wrapper.write_text('#!/bin/bash\necho "wrapped $#"\nexec "$@"\n')
    wrapper.chmod(0o755)
    lab.submit_jobs(
        job(
            'echo "$PYTHONPATH"; false; echo unreached',
            invocation_script="#!/bin/bash\nset -e\nexport PYTHONPATH=/opt/x:\n",
        ),
        job("echo unreached", invocation_script="set -e\n(exit 4)\n"),
        job("echo unreached", invocation_script="exit 5\n"),
        job("echo a b", invocation_script="./wrapper.sh"),
    )
    lab.run(1, code=1)
    assert [said(lab, f"j{number}") for number in (1, 2, 3, 4)] == ["/opt/x:\n", "", "", "wrapped 3\na b\n"]
    assert [lab.job(f"j{number}")["return_code"] for number in (1, 2, 3, 4)] == [1, 4, 5, 0]


def test_an_attempt_records_the_digest_of_what_was_run(lab: Lab) -> None:
    mine = job("exit 3", env={"A": "1"}, failure_handler="again")
    rules = (Rule(match_all_exit_codes=True, max_retries=1, recovery_script="exit 1"),)
    lab.submit_jobs(mine, env={"B": "2"}, failure_handlers=(FailureHandler(name="again", rules=rules),))
    lab.run(1, code=1)
    (record,) = lab.store().records()
    content = lab.store().read_job(str(lab.file("j1")), 1)
    assert content is not None
    ran, recovered = content.job.attempts
    assert ran.digest == digest(record, {"B": "2"}) == digest(mine, {"B": "2"})
    assert recovered.digest is None, "the command was not run"


# -- stdout and stderr

BOTH = "echo 1; echo 2 >&2; echo 3; echo 4 >&2"
EXPECTED = {  # what the files hold, by the end of their names
    StdioMode.SEPARATE: {"out": "1\n3\n", "err": "2\n4\n"},
    StdioMode.COMBINED: {"out": "1\n2\n3\n4\n"},
    StdioMode.NO_STDOUT: {"err": "2\n4\n"},
    StdioMode.NO_STDERR: {"out": "1\n3\n"},
    StdioMode.NONE: {},
}


def files(lab: Lab, number: int = 1) -> dict[str, str]:
    found = [path for path in (lab.root() / "output").iterdir() if f"-{number:09d}." in path.name]
    return {path.suffix[1:]: path.read_text() for path in found}


def test_output_goes_to_the_files_that_the_mode_asks_for_and_to_no_other(lab: Lab) -> None:
    lab.submit_jobs(*(job(BOTH, name=str(mode), stdio=Stdio(mode=mode)) for mode in StdioMode))
    lab.run(1)
    for number, (mode, expected) in enumerate(EXPECTED.items(), 1):
        assert files(lab, number) == expected, mode
        (attempt,) = lab.job(mode)["attempts"]
        streams = ("out", "out") if mode is StdioMode.COMBINED else ("out", "err")
        for end, stream in zip(streams, ("stdout", "stderr"), strict=True):
            path = attempt[stream]
            assert (Path(path).read_text() if path else None) == expected.get(end), (mode, stream)
    assert lab.torc("logs", 1, "combined") == (0, "1\n2\n3\n4\n", "")
    assert lab.torc("logs", 1, "no_stdout") == (0, "", "2\n4\n")
    assert lab.torc("logs", 1, "no_stderr") == (0, "1\n3\n", "")
    said = lab.torc("logs", 1, "none", code=2).sentence()
    assert said == "job none has no output of its attempt 1: it was not kept (stdio: none)"
    shown = lab.torc("jobs", "show", 1, "none").stdout
    assert shown.count("not kept (stdio: none)") == 4, "of the job, and of its attempt"


def test_both_streams_of_many_writers_go_to_one_file_whole(lab: Lab) -> None:
    """One open file: none overwrites what another has written."""
    command = "for i in $(seq 200); do echo out $i; done & for i in $(seq 200); do echo err $i >&2; done; wait"
    lab.submit_jobs(job(command), stdio=Stdio(mode=StdioMode.COMBINED))
    lab.run(1)
    lines = said(lab).splitlines()
    assert sorted(lines) == sorted(f"{end} {i}" for end, i in itertools.product(("out", "err"), range(1, 201)))


def test_a_job_without_output_is_explained_while_it_runs(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit_jobs(job(f"readlink /proc/$$/fd/1 /proc/$$/fd/2 > ends; {gate.wait}", stdio=Stdio(mode=StdioMode.NONE)))
    runner = lab.start("run", 1)
    gate.await_jobs("j1")
    for words in ([], ["--follow"]):
        assert "not kept (stdio: none)" in lab.torc("logs", 1, "j1", *words, code=2).sentence()
    gate.open()
    runner.wait()
    assert (lab.cwd / "ends").read_text() == "/dev/null\n" * 2
    assert files(lab) == {}


@pytest.mark.parametrize("mode", [StdioMode.SEPARATE, StdioMode.COMBINED])
def test_output_is_deleted_once_a_job_has_completed_and_kept_of_what_failed(lab: Lab, mode: StdioMode) -> None:
    handler = FailureHandler(name="again", rules=(Rule(match_all_exit_codes=True),))
    lab.submit_jobs(
        job(f"{BOTH}; [ $TORC_ATTEMPT_ID = 2 ]", failure_handler="again"),
        job(f"{BOTH}; exit 1"),
        job(BOTH, stdio=Stdio(mode=mode)),
        stdio=Stdio(mode=mode, delete_on_success=True),
        failure_handlers=(handler,),
    )
    lab.run(1, code=1)
    kept = EXPECTED[mode]
    assert [files(lab, number) for number in (1, 2, 3)] == [kept, kept, kept]
    assert len(lab.ls("output")) == 3 * len(kept), "nothing of the attempt that completed"
    failed, completed = lab.job("j1")["attempts"]
    assert Path(failed["stdout"]).exists()
    assert (completed["stdout"], completed["stderr"]) == (None, None)
    why = "removed when the job had completed (delete_on_success)"
    assert why in lab.torc("logs", 1, "j1", "--attempt", 2, code=2).sentence()
    assert why in lab.torc("jobs", "show", 1, "j1").stdout
    assert lab.torc("logs", 1, "j1", "--attempt", 1).stdout == kept["out"]
