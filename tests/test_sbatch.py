"""The batch script as text: what is asked, what is refused, and what a shell and Slurm make of the quoting."""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torc_spool import sbatch
from torc_spool.errors import SpecError
from torc_spool.sbatch import Launch

LAUNCH = Launch(
    program=["/opt/env/bin/torc-spool"],
    spool="/data/spool",
    workflow_id=7,
    scheduler="gpu",
    key="0123abcd",
    cwd="/data",
    output_dir="/data/spool/7-flow/output",
)


def asked(**fields: Any) -> dict[str, str | None]:
    return sbatch.options({"name": "gpu", **fields})


def test_allocations_one_after_the_other_wait_for_those_of_their_name() -> None:
    assert asked(serialize_allocations=True)["dependency"] == "singleton"
    assert asked(serialize_allocations=False) == asked()
    with pytest.raises(SpecError, match="both give --dependency"):
        asked(dependency="afterok:1", serialize_allocations=True)


def test_the_script_of_a_scheduler() -> None:
    scheduler = {
        "name": "gpu",
        "account": "proj",
        "partition": "a100",
        "walltime": "04:00:00",
        "mem": "64G",
        "gres": "gpu:2",
        "qos": None,
        "ntasks_per_node": 1,
        "tmp": "10G",
        "extra": "--constraint=haswell --exclusive",
    }
    options = sbatch.options(scheduler, {"qos": "high", "mail-user": "me@example.com"})
    launch = LAUNCH._replace(runner_options=["-p", "8"])
    assert sbatch.script(options, launch) == (
        """#!/bin/bash
#SBATCH --job-name=torc-spool-7-gpu
#SBATCH --comment=torc-spool:7:0123abcd
#SBATCH --chdir=/data
#SBATCH --output=/data/spool/7-flow/output/slurm_output_wf7_sl%j.o
#SBATCH --error=/data/spool/7-flow/output/slurm_output_wf7_sl%j.e
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@40
#SBATCH --nodes=1
#SBATCH --time=04:00:00
#SBATCH --qos=high
#SBATCH --mail-user=me@example.com
#SBATCH --account=proj
#SBATCH --partition=a100
#SBATCH --mem=64G
#SBATCH --gres=gpu:2
#SBATCH --ntasks-per-node=1
#SBATCH --tmp=10G
#SBATCH --constraint=haswell
#SBATCH --exclusive

trap '' USR1  # "your time is ending": the runner heeds it, and may not be there yet when it comes
unset SLURM_EXPORT_ENV  # --export is for this script, not for every srun in it
exec /opt/env/bin/torc-spool --spool /data/spool run 7 --scheduler gpu --grace 10 --leave-to-others -p 8
"""
    )


def test_the_first_line_names_the_shell_and_no_directive_follows_a_command() -> None:
    lines = sbatch.script(asked(), LAUNCH).splitlines()
    assert lines[0] == "#!/bin/bash"
    directives = [line.startswith("#SBATCH") for line in lines[1:]]
    assert directives == sorted(directives, reverse=True)
    assert not any("\r" in line for line in lines)


def test_a_runner_for_each_node_is_started_by_srun_and_the_end_of_one_ends_no_other() -> None:
    text = sbatch.script(asked(nodes=4), LAUNCH._replace(one_runner_per_node=True))
    start = text.replace("\\\n", "").splitlines()[-1]
    words = shlex.split(start)
    assert words[0] == "srun"  # in whose place the script would be told of the end by a signal to all jobs
    assert {"--wait=0", "--kill-on-bad-exit=0", "--ntasks-per-node=1"} <= set(words)
    assert words[-2:] == ["--num-nodes", "1"]


ENDS = {"asked once": ("echo 1900000000", {}, "1900000000"), "said": ("exit 1", {"SLURM_JOB_END_TIME": "17"}, "17")}


@pytest.mark.parametrize(("squeue", "environ", "end"), ENDS.values(), ids=ENDS)
def test_runners_of_several_nodes_know_the_end(tmp_path: Path, squeue: str, environ: dict[str, str], end: str) -> None:
    assert run_script(tmp_path, squeue, environ) == end


def test_runners_of_several_nodes_reckon_the_end_when_slurm_does_not_say_it(tmp_path: Path) -> None:
    before = time.time()
    assert before + 3600 - 2 <= float(run_script(tmp_path, "exit 1", {})) <= time.time() + 3600


def run_script(directory: Path, squeue: str, environ: dict[str, str]) -> str:
    """What srun is told of the end."""
    for name, body in (("squeue", squeue), ("srun", 'echo "$SLURM_JOB_END_TIME"')):
        (directory / name).write_text(f"#!/bin/bash\n{body}\n")
        (directory / name).chmod(0o755)
    text = sbatch.script(asked(nodes=4), LAUNCH._replace(one_runner_per_node=True))
    environ = {"PATH": f"{directory}:/usr/bin:/bin", "SLURM_JOB_ID": "9", "SLURM_JOB_NUM_NODES": "4", **environ}
    done = subprocess.run(["bash"], input=text, env=environ, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_one_runner_for_several_nodes_is_told_how_many() -> None:
    assert sbatch.script(asked(nodes=4), LAUNCH).splitlines()[-1].endswith(' --num-nodes "$SLURM_JOB_NUM_NODES"')
    assert "--num-nodes" not in sbatch.script(asked(nodes=1), LAUNCH)


def test_the_notice_leaves_time_for_the_grace_and_for_slurm_to_be_late() -> None:
    assert "--signal=B:USR1@150\n" in sbatch.script(asked(), LAUNCH._replace(grace_s=120.0))


def test_a_scheduler_wins_over_defaults_and_a_person_over_both() -> None:
    scheduler = {"name": "s", "account": "theirs", "walltime": "10"}
    options = sbatch.options(scheduler, {"account": "default", "qos": "low", "time": 5}, {"walltime": "20"})
    assert options == {"nodes": "1", "time": "20", "account": "theirs", "qos": "low"}


def test_fields_are_long_options_of_sbatch_with_dashes_for_underscores() -> None:
    assert asked(cpus_per_task=4, exclusive=True, requeue=False, **{"mail-type": "END,FAIL"}) == {
        "nodes": "1",
        "time": "01:00:00",
        "cpus-per-task": "4",
        "exclusive": None,
        "mail-type": "END,FAIL",
    }


@pytest.mark.parametrize(
    "extra",
    ["--account=a --hold", "--account a --hold", "-A a --hold", "-Aa --hold", "--hold --account 'a'"],
    ids=["equals", "word", "short", "joined", "quoted"],
)
def test_extra_is_read_as_a_command_line(extra: str) -> None:
    options = asked(extra=extra)
    assert options["account"] == "a"
    assert options["hold"] is None


REFUSED = {
    "two-memories": ({"mem": "1G", "mem_per_cpu": "1G"}, "mem and mem-per-cpu contradict each other"),
    "memory-in-extra": ({"mem": "1G", "extra": "--mem-per-gpu=4G"}, "mem and mem-per-gpu contradict each other"),
    "gres-and-gpus": ({"gres": "lustre:1,gpu:2", "gpus": 2}, "gres and gpus both ask for GPUs"),
    "both-times": ({"walltime": "1", "time": "2"}, "time and another field both give --time"),
    "twice": ({"account": "a", "extra": "-A b"}, "extra gives --account once more"),
    "output": ({"output": "x"}, "output cannot be given: use --output-dir"),
    "job-name": ({"job_name": "x"}, "job_name cannot be given: the script names"),
    "array": ({"extra": "--array=1-4"}, "array cannot be given: ask for several allocations with --num-hpc-jobs"),
    "signal": ({"signal": "TERM@60"}, "signal cannot be given: use --grace"),
    "extra-words": ({"extra": "haswell"}, "'haswell' is not an option of sbatch"),
    "extra-quotes": ({"extra": "--comment='x"}, "cannot be split into words"),
    "extra-short": ({"extra": "-Z 1"}, "write the long option in place of -Z"),
    "extra-list": ({"extra": ["--x"]}, "extra: must be text"),
    "dashes": ({"--qos": "x"}, "'--qos' is not a long option of sbatch"),
    "mapping": ({"qos": {"a": 1}}, "qos must be text, a number or true"),
    "empty": ({"qos": " "}, "qos must be text, a number or true"),
    "flag": ({"account": True}, "account needs a value"),
    "nodes": ({"nodes": 0}, "nodes must be a whole number from 1, not 0"),
    "walltime": ({"walltime": "4 hours"}, "walltime: '4 hours' is not a time limit of Slurm"),
}


@pytest.mark.parametrize(("fields", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_contradicts_itself_or_the_script_is_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError, match=re.escape(sentence)) as refused:
        asked(**fields)
    assert str(refused.value).startswith("slurm_schedulers: gpu: ")
    assert "\n" not in str(refused.value)


def test_gres_of_another_kind_goes_with_gpus() -> None:
    assert asked(gres="lustre:1", gpus=2)["gpus"] == "2"


TIMES = {
    "10": 600,
    "10:30": 630,
    "04:00:00": 14_400,
    "1-00": 86_400,
    "1-00:30": 88_200,
    "1-00:00:01": 86_401,
    "90:00": 5_400,
    "0:30": 30,
    "UNLIMITED": None,
    "infinite": None,
}


@pytest.mark.parametrize(("text", "seconds"), TIMES.items(), ids=TIMES)
def test_time_limits_are_read_as_slurm_does(text: str, seconds: int | None) -> None:
    assert sbatch.walltime(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "00:00:00", "-5", "1:2:3:4", "1-", "PT4H", "4h", "1.5", "٣"])
def test_what_is_no_time_limit_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="time"):
        sbatch.walltime(text)


@given(st.integers(0, 99), st.integers(0, 23), st.integers(0, 59), st.integers(1, 59))
def test_a_time_that_is_written_out_is_read_back(days: int, hours: int, minutes: int, seconds: int) -> None:
    text = f"{days}-{hours:02}:{minutes:02}:{seconds:02}"
    assert sbatch.walltime(text) == ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def read_by_slurm(value: str) -> str:
    """A quoted value as Slurm reads it: a backslash takes the meaning of whatever follows."""
    if not value.startswith('"'):
        return value
    assert value.endswith('"')
    return re.sub(r"\\(.)", r"\1", value[1:-1])


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
def test_a_directive_says_what_it_was_given(text: str) -> None:
    name, _, value = sbatch.directive("comment", text).partition("=")
    assert name == "--comment"
    assert "\n" not in value
    assert read_by_slurm(value) == text
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", value)
    assert not re.search(r"""[\s"'\\#]""", bare)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), min_size=1))
def test_the_runner_gets_its_words_as_they_are(words: list[str]) -> None:
    line = sbatch.script(asked(), LAUNCH._replace(runner_options=words)).split("\nexec ", 1)[1]
    assert shlex.split(line)[-len(words) :] == words


def test_a_percent_sign_in_the_output_directory_is_not_taken_for_a_number() -> None:
    assert "--output=/data/100%%j/slurm" in sbatch.script(asked(), LAUNCH._replace(output_dir="/data/100%j"))


@pytest.mark.parametrize("path", ["/data/a\nb", "/data/a\rb"])
def test_a_line_break_in_a_path_is_refused(path: str) -> None:
    with pytest.raises(SpecError, match=r"chdir: .* holds a control character"):
        sbatch.script(asked(), LAUNCH._replace(cwd=path))


def test_a_backslash_in_the_output_directory_is_refused() -> None:
    with pytest.raises(SpecError, match="holds a backslash"):
        sbatch.script(asked(), LAUNCH._replace(output_dir="/data/a\\b"))


def test_the_name_of_an_allocation_is_one_that_squeue_finds_and_shows_in_columns() -> None:
    assert LAUNCH._replace(scheduler="gpu,big é").job_name == "torc-spool-7-gpu_big__"


def test_a_comment_of_ones_own_is_kept_before_the_key() -> None:
    assert '--comment="8 hours torc-spool:7:0123abcd"\n' in sbatch.script(asked(comment="8 hours"), LAUNCH)
