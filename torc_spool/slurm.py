"""Talk with Slurm: its commands, each called with a timeout, and what their answers mean."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from torc_spool import children, sbatch
from torc_spool.errors import SlurmError, SpecError

SBATCH_TIMEOUT_S = 120.0  # a busy controller lets one wait
QUERY_TIMEOUT_S = 30.0
_REFUSED = "BadConstraints"  # the reason of what no node could ever run
_SHOWN = 100  # characters of an answer that is not understood

# what sbatch says, and what to do about it; the first that fits
_HINTS = (
    ("job submit limit", "ask for fewer allocations (--num-hpc-jobs) or smaller ones; squeue --me shows what is there"),
    ("account", "name one of yours: --account, or `account` of the scheduler (sacctmgr show associations shows them)"),
    ("partition", "name another: --partition, or `partition` of the scheduler (sinfo shows them)"),
    ("time limit", "ask for less: --walltime, or `walltime` of the scheduler (sinfo shows the limits)"),
    ("node configuration", "no node of that partition has so much: see sinfo -o '%P %c %m %G'"),
    ("invalid node name", "there is no such node: see `nodelist` and `exclude` of the scheduler, and sick-hosts list"),
    ("node count", "ask for fewer nodes: `nodes` of the scheduler"),
    ("memory", "ask for less: `mem` of the scheduler"),
    ("generic resource", "see sinfo -o '%P %G' for what there is: `gres` of the scheduler"),
    ("feature", "no node has it: see sinfo -o '%P %f' for what there is: `constraint` of the scheduler"),
    ("qos", "name another: `qos` of the scheduler"),
    ("option", "no such option: look at the scheduler, at its `extra` and at slurm_defaults"),
    ("controller", "Slurm does not answer; try again later"),
    ("socket timed out", "Slurm does not answer; look into squeue before you try again"),
)


class Submitted(NamedTuple):
    """What sbatch answers."""

    job_id: str
    cluster: str | None


def submit(script: str, asked: Mapping[str, str | None], environ: Mapping[str, str] = os.environ) -> Submitted:
    """Ask for one allocation. Raises SlurmError with Slurm's own words and a hint."""
    try:
        answer = call(
            ["sbatch", "--parsable"],
            stdin=script,
            environ=submit_environment(asked, environ),
            timeout_s=SBATCH_TIMEOUT_S,
            dies_with_us=True,  # what is left of us shall ask for nothing while others look what we have asked for
        )
    except SlurmError as error:
        raise SlurmError(error.command, error.said, error.hint or hint(error.said)) from None
    match = re.fullmatch(r"([1-9][0-9]*)(?:;(\S+))?", (answer.splitlines() or [""])[-1].strip())
    if match is None:
        raise SlurmError("sbatch", f"answered {quoted(answer)}, which is no number of an allocation")
    return Submitted(match[1], match[2])


def submit_environment(asked: Mapping[str, str | None], environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for sbatch, and so for the allocation.

    Without what an allocation or a job around us says of itself, and without variables that would win over the
    options of the script.
    """
    overruled = {f"SBATCH_{name.upper().replace('-', '_')}" for name in asked}
    overruled |= {"SBATCH_TIMELIMIT", "SBATCH_JOB_NAME", "SBATCH_SIGNAL", "SBATCH_OUTPUT", "SBATCH_ARRAY_INX"}
    return {
        name: value
        for name, value in environ.items()
        if name not in overruled
        and (not name.startswith("SLURM_") or name in ("SLURM_CONF", "SLURM_CLUSTERS"))
        and (not name.startswith("TORC_") or name.startswith("TORC_SPOOL_"))
    }


def is_here(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether allocations can be asked for where this process runs, as far as that can be seen."""
    return shutil.which("sbatch", path=environ.get("PATH", os.defpath)) is not None


def submitted(job_name: str, mark: str, environ: Mapping[str, str] = os.environ) -> list[str]:
    """The numbers of the allocations whose comment ends with a mark, oldest first. Raises SlurmError.

    Slurm forgets what has ended after some minutes; accounting remembers it, where there is one. What it has refused it
    may show for a while, as if that had failed.
    """
    queue = ["squeue", "--noheader", "--states=all", f"--name={job_name}", "--format=%A %r %k"]
    lines = call(queue, environ=environ, timeout_s=QUERY_TIMEOUT_S).splitlines()
    history = ["sacct", "--noheader", "--parsable2", "--allocations", f"--name={job_name}", "--starttime=now-30days"]
    with suppress(SlurmError):
        answer = call(
            [*history, "--delimiter= ", "--format=JobIDRaw,Comment"], environ=environ, timeout_s=QUERY_TIMEOUT_S
        )
        lines += answer.splitlines()
    found = {
        words[0] for line in lines if len(words := line.split()) > 1 and words[-1] == mark and words[1] != _REFUSED
    }
    return sorted((number for number in found if number.isdecimal()), key=int)


def hint(said: str) -> str | None:
    """What to do about a refusal."""
    return next((what for word, what in _HINTS if word in said.lower()), None)


def seconds_left(job_id: str, environ: Mapping[str, str] = os.environ) -> int | None:
    """How long an allocation may still run; None where it has no limit. Raises SlurmError."""
    words = ["squeue", "--noheader", f"--jobs={job_id}", "--format=%A %L"]
    lines = call(words, environ=environ, timeout_s=QUERY_TIMEOUT_S).splitlines()
    # the number of an array's last task is that of the whole array, and squeue shows them all
    answer = next((line for line in lines if line.split()[:1] == [job_id]), "\n".join(lines))
    answer = answer.strip().removeprefix(f"{job_id} ")
    if answer.upper() in ("UNLIMITED", "NOT_SET"):
        return None
    try:
        return sbatch.walltime(answer)
    except SpecError:
        if re.fullmatch(r"[0:]+|INVALID", answer):
            return 0
        raise SlurmError("squeue", f"says {quoted(answer)} of the time left to allocation {job_id}") from None


def call(
    words: Sequence[str],
    *,
    stdin: str = "",
    environ: Mapping[str, str] = os.environ,
    timeout_s: float,
    dies_with_us: bool = False,
) -> str:
    """What a command of Slurm prints. Raises SlurmError when it is not there, fails, or does not answer in time."""
    command = words[0]
    own = (
        () if command == "sbatch" else (f"{command.upper()}_",)
    )  # a person's SQUEUE_PARTITION is not for our questions
    try:
        done = subprocess.run(
            words,
            input=stdin.encode(errors="surrogateescape"),
            capture_output=True,
            env={name: value for name, value in environ.items() if not name.startswith(own)},
            timeout=timeout_s,
            check=False,
            preexec_fn=children.dying_with_parent() if dies_with_us else None,
        )
    except FileNotFoundError:
        raise SlurmError(
            command, "is not installed here, or not on the PATH", "call this where Slurm's commands are: a login node"
        ) from None
    except subprocess.TimeoutExpired:
        raise SlurmError(command, f"did not answer within {timeout_s:g} s", "is Slurm up? see scontrol ping") from None
    except OSError as error:
        raise SlurmError(command, error.strerror or str(error)) from None
    if done.returncode != 0:
        how = f"exit code {done.returncode}" if done.returncode > 0 else f"signal {-done.returncode}"
        raise SlurmError(command, _own_words(done.stderr, command) or f"ended with {how}")
    return done.stdout.decode(errors="replace")


def quoted(answer: str) -> str:
    """What was not understood, as far as it is of use to a person."""
    return repr(answer if len(answer) <= _SHOWN else f"{answer[:_SHOWN]}...")


def _own_words(stderr: bytes, command: str) -> str:
    lines = stderr.decode(errors="replace").splitlines()
    words = [re.sub(rf"^{command}: (error: )?", "", line).strip() for line in lines]
    return "; ".join(word for word in words if word)
