"""The batch script of an allocation, as text: what is asked of Slurm, and how runners start in it. Pure.

A `#SBATCH` value stands in double quotes where it has to; within them a backslash takes away what `"` and `\\` mean,
and nothing else means anything.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torc_spool import naming
from torc_spool.errors import SpecError

DEFAULT_WALLTIME = "01:00:00"
DEFAULT_GRACE_S = 10.0
LATE_S = 30  # Slurm's clock strikes every half a minute: what it has announced may come so much late

_ALIASES = {"walltime": "time"}
_SHORT = {
    "A": "account", "p": "partition", "N": "nodes", "t": "time", "q": "qos", "o": "output", "e": "error",
    "D": "chdir", "J": "job-name", "a": "array", "n": "ntasks", "c": "cpus-per-task", "G": "gpus", "C": "constraint",
    "w": "nodelist", "x": "exclude", "d": "dependency", "L": "licenses", "b": "begin",
}  # fmt: skip
_OURS = {
    "job-name": "the script names the allocation after the workflow",
    "name": "the script names the allocation after the workflow",
    "output": "use --output-dir",
    "error": "use --output-dir",
    "chdir": "the allocation begins in the directory of the submit",
    "signal": "use --grace: the script asks for a signal that leaves the runner so much time",
    "array": "ask for several allocations with --num-hpc-jobs",
    "open-mode": "the script appends to its output",
    "wrap": "the script starts runners",
    "parsable": "it is given where sbatch is called",
    "wait": "use torc-spool wait",
    "test-only": "use --dry-run",
    "help": "it submits nothing",
    "usage": "it submits nothing",
    "version": "it submits nothing",
}
_MEMORY = ("mem", "mem-per-cpu", "mem-per-gpu")
_GPUS = ("gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket")

_OPTION = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_PLAIN = re.compile(r"[A-Za-z0-9_./:,=@%+*\[\]{}-]+")
_TIME = re.compile(r"(?:(?P<days>\d{1,5})-(?P<dh>\d{1,6})(?::(?P<dm>\d{1,6})(?::(?P<ds>\d{1,6}))?)?"
                   r"|(?P<first>\d{1,8})(?::(?P<second>\d{1,6})(?::(?P<third>\d{1,6}))?)?)", re.ASCII)  # fmt: skip
_UNITS = {"k": 1 / 1024, "": 1.0, "m": 1.0, "g": 1024.0, "t": 1024.0**2}  # of memory, in MiB
_UNLIMITED = ("unlimited", "infinite")
_TIME_FORMS = 'write "04:00:00", "1-00:00:00" (days-hours:minutes:seconds), or a number of minutes'

Options = dict[str, str | None]  # long names without the dashes; None: a flag


class Launch(NamedTuple):
    """How runners start in an allocation."""

    program: Sequence[str]  # the words that call torc-spool, with an absolute path
    spool: str
    workflow_id: int
    scheduler: str
    key: str  # in the allocation's comment, by which it is found
    cwd: str
    output_dir: str  # of the allocation's own output; must be there when it starts
    runner_options: Sequence[str] = ()
    one_runner_per_node: bool = False
    grace_s: float = DEFAULT_GRACE_S

    @property
    def job_name(self) -> str:
        """By which it is asked for in Slurm, where a comma parts names and columns are as wide as bytes are many."""
        return f"torc-spool-{self.workflow_id}-{naming.slugify(self.scheduler)}"

    @property
    def mark(self) -> str:
        """The last word of the allocation's comment."""
        return f"torc-spool:{self.workflow_id}:{self.key}"

    @property
    def lead_s(self) -> int:
        """How long before its end the allocation is told: the grace of the jobs, and what Slurm may be late."""
        return int(self.grace_s) + LATE_S


def options(
    scheduler: Mapping[str, Any], defaults: Mapping[str, Any] | None = None, said: Mapping[str, Any] | None = None
) -> Options:
    """What to ask Slurm for: a scheduler of the specification over `slurm_defaults`; what a person `said` wins.

    Raises SpecError for what contradicts itself, and for what the script has to say.
    """
    where = f"slurm_schedulers: {scheduler.get('name')}"
    fields = {key: value for key, value in scheduler.items() if key not in ("name", "extra")}
    merged: Options = {"nodes": "1", "time": DEFAULT_WALLTIME}
    merged |= _read(defaults or {}, "slurm_defaults")
    own, extra = _read(fields, where), dict(_extra(scheduler.get("extra"), where))
    for name in own.keys() & extra.keys():
        raise SpecError(f"extra gives --{name} once more; leave one out", where=where)
    merged |= own | extra
    merged |= _read(said or {}, "command line")
    _check_conflicts(merged, where)
    if not re.fullmatch(r"[1-9][0-9]{0,6}", merged["nodes"] or ""):
        raise SpecError(f"nodes must be a whole number from 1, not {merged['nodes']}", where=where)
    try:
        walltime(merged["time"] or "")
    except SpecError as error:
        raise SpecError(f"walltime: {error.message}", where=where) from None
    return merged


def walltime(text: str | int) -> int | None:
    """Seconds from a time limit as Slurm reads it; None for no limit.

    "minutes", "minutes:seconds", "hours:minutes:seconds", "days-hours", "days-hours:minutes",
    "days-hours:minutes:seconds", "UNLIMITED". Raises SpecError.
    """
    given = str(text).strip()
    if given.lower() in _UNLIMITED:
        return None
    match = _TIME.fullmatch(given)
    if match is None:
        raise SpecError(f"{given!r} is not a time limit of Slurm; {_TIME_FORMS}")
    days, hours, minutes, seconds = (int(match[name] or 0) for name in ("days", "dh", "dm", "ds"))
    if match["third"] is not None:
        hours, minutes, seconds = int(match["first"]), int(match["second"]), int(match["third"])
    elif match["first"] is not None:
        minutes, seconds = int(match["first"]), int(match["second"] or 0)
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if total == 0:
        raise SpecError(f"{given!r} is no time at all; {_TIME_FORMS}")
    return total


def memory_mib(text: str) -> int | None:
    """What `--mem` asks for on a node, in MiB; None for what is not understood, and 0 is all that a node has."""
    match = re.fullmatch(r"(\d{1,15})([kmgt]?)b?", text.strip().lower(), re.ASCII)
    return None if match is None else int(int(match[1]) * _UNITS[match[2]])


def script(asked: Options, launch: Launch) -> str:
    """The text for sbatch: it becomes a runner, or with one for each node an `srun` that starts them.

    Raises SpecError for what no batch script can say.
    """
    said = {
        "job-name": launch.job_name,
        "comment": _comment(asked.get("comment"), launch),
        "chdir": launch.cwd,
        "output": _log(launch, "o"),
        "error": _log(launch, "e"),
        "open-mode": "append",
        "signal": f"B:USR1@{launch.lead_s}",
        **{name: value for name, value in asked.items() if name != "comment"},
    }
    words = [*launch.program, "--spool", launch.spool, "run", str(launch.workflow_id)]
    words += ["--scheduler", launch.scheduler, "--grace", f"{launch.grace_s:g}", "--leave-to-others"]
    words += launch.runner_options
    runner = shlex.join(words)
    if launch.one_runner_per_node:
        start = _on_each_node(f"{runner} --num-nodes 1", walltime(asked["time"] or ""))
    elif asked["nodes"] == "1":
        start = [f"exec {runner}"]
    else:
        start = [f'exec {runner} --num-nodes "$SLURM_JOB_NUM_NODES"']
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH {directive(name, value)}" for name, value in said.items()),
            "",
            "trap '' USR1  # \"your time is ending\": the runner heeds it, and may not be there yet when it comes",
            "unset SLURM_EXPORT_ENV  # --export is for this script, not for every srun in it",
            *start,
            "",
        ]
    )


def _on_each_node(runner: str, walltime_s: int | None) -> list[str]:
    """Where srun takes the place of the script it hands USR1 on to every process of its step, jobs too. So it is a
    child of the script, and the runners go by the end of the allocation, which the script finds out once for all."""
    ask = 'SLURM_TIME_FORMAT=%s timeout 30 squeue --noheader --jobs="$SLURM_JOB_ID" --format=%e'
    lines = [
        "trap : TERM  # the runners get it too, and this has to be there until they have ended",
        f"end=${{SLURM_JOB_END_TIME:-$({ask})}}",
    ]
    if walltime_s is not None:
        lines.append(f"[[ $end =~ ^[1-9][0-9]*$ ]] || end=$(($(date +%s) + {walltime_s}))  # Slurm does not answer")
    return [
        *lines,
        'export SLURM_JOB_END_TIME="$end"',
        'srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \\',
        "    --wait=0 --kill-on-bad-exit=0 --overlap --cpu-bind=none \\",
        f"    {runner}",
    ]


def directive(name: str, value: str | None) -> str:
    """One option of sbatch as it stands in a script. Raises SpecError for what cannot stand there."""
    if value is None:
        return f"--{name}"
    if any(unicodedata.category(char) in ("Cc", "Zl", "Zp") and char != "\t" for char in value):
        raise SpecError(f"{value!r} holds a control character, which no line of a batch script can say", where=name)
    if _PLAIN.fullmatch(value):
        return f"--{name}={value}"
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'--{name}="{quoted}"'


def log(launch: Launch, job_id: str, end: str = "o") -> str:
    """Where the allocation's own stdout (`o`) or stderr (`e`) goes."""
    return f"{launch.output_dir}/{_log_name(launch, job_id, end)}"


def _log_name(launch: Launch, job_id: str, end: str) -> str:
    return f"slurm_output_wf{launch.workflow_id}_sl{job_id}.{end}"


def _log(launch: Launch, end: str) -> str:
    if "\\" in launch.output_dir:
        # Slurm replaces nothing in a path that holds one, so that the id could not stand in the name
        raise SpecError(f"{launch.output_dir} holds a backslash; Slurm cannot number files there: use --output-dir")
    return launch.output_dir.replace("%", "%%") + "/" + _log_name(launch, "%j", end)


def _comment(own: str | None, launch: Launch) -> str:
    return f"{own} {launch.mark}" if own else launch.mark


def _read(fields: Mapping[str, Any], where: str) -> Options:
    """Long options by name, with their values as text; what is null or false is not given."""
    found: Options = {}
    for field, value in fields.items():
        if value is None or value is False:
            continue
        name = _option_name(str(field), where)
        if name == "serialize-allocations" and value is True:  # Torc's: those of a scheduler have one name
            name, value = "dependency", "singleton"
        if name in found:
            raise SpecError(f"{field} and another field both give --{name}; leave one out", where=where)
        if value is True:
            found[name] = None
        elif isinstance(value, str | int | float) and str(value).strip():
            found[name] = str(value).strip()
        else:
            raise SpecError(f"{field} must be text, a number or true", where=where)
    return found


def _option_name(field: str, where: str) -> str:
    name = field.replace("_", "-")
    name = _ALIASES.get(name, name)
    if name in _OURS:
        raise SpecError(f"{field} cannot be given: {_OURS[name]}", where=where)
    if not _OPTION.fullmatch(name):
        raise SpecError(f"{field!r} is not a long option of sbatch; write mail_type for --mail-type", where=where)
    return name


def _extra(text: Any, where: str) -> Iterator[tuple[str, str | None]]:
    """The options in `extra`, written as on a command line; a value may follow its option as a word."""
    if text is None:
        return
    where = f"{where}: extra"
    if not isinstance(text, str):
        raise SpecError("must be text, such as --constraint=skylake", where=where)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise SpecError(f"{text!r} cannot be split into words: {error}", where=where) from None
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
        elif re.match(r"-[A-Za-z]", word):
            if word[1] not in _SHORT:
                raise SpecError(f"write the long option in place of {word}", where=where)
            name, value = _SHORT[word[1]], word[2:].removeprefix("=")
            equals = value
        else:
            raise SpecError(f"{word!r} is not an option of sbatch, which begin with a dash", where=where)
        if not equals and words and not words[0].startswith("-"):
            equals, value = "=", words.pop(0)
        yield _option_name(name, where), value if equals else None


def _check_conflicts(asked: Options, where: str) -> None:
    memory = [name for name in _MEMORY if name in asked]
    if len(memory) > 1:
        raise SpecError(f"{' and '.join(memory)} contradict each other; state the memory in one way", where=where)
    gpus = [name for name in _GPUS if name in asked]
    if gpus and re.search(r"(^|,)(gres/)?(gres:)?gpu\b", asked.get("gres") or ""):
        raise SpecError(f"gres and {gpus[0]} both ask for GPUs; leave one out", where=where)
    for name in ("nodes", "time", "account", "partition", "qos", "gres", *_MEMORY):
        if name in asked and asked[name] is None:
            raise SpecError(f"{name} needs a value", where=where)
