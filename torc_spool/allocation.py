"""What a Slurm allocation gives to a runner inside it: cpus, memory, GPUs, nodes and time."""

from __future__ import annotations

import itertools
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from torc_spool import capacity as capacities
from torc_spool import naming
from torc_spool.capacity import Capacity
from torc_spool.errors import SlurmError
from torc_spool.options import OWN_END, WALLTIME_END

MARGIN_S = 90  # what is to be over before the end: Slurm's own notice comes up to a minute early
_ENTRY = r"(?:[\w.-]|\[\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*\])+"  # of a list of nodes
_MAX_NODES = 100_000  # no list is longer; what seems to be is not expanded
_INTERACTIVE_STEP = 0xFFFF_0000  # numbers from here on are Slurm's own, such as the shell of salloc


def job_id(environ: Mapping[str, str] = os.environ) -> str | None:
    """The allocation that we are in."""
    found = environ.get("SLURM_JOB_ID", "")
    return found if re.fullmatch(r"[1-9][0-9]{0,18}", found) else None


def detect(environ: Mapping[str, str] = os.environ) -> Capacity:
    """The capacity of this process on this node, no more than its allocation has of it."""
    if job_id(environ) is None:
        return capacities.detect(environ=environ)
    # what nvidia-smi shows may be the GPUs of others
    return confine(capacities.detect(environ=environ, nvidia_smi=lambda: ""), environ)


def confine(has: Capacity, environ: Mapping[str, str]) -> Capacity:
    """`has`, but no more than the allocation gives on each of its nodes, and as many nodes."""
    nodes = _num_nodes(environ)
    cpus = _num_cpus(environ, nodes)
    gpus = _number(environ, "SLURM_GPUS_ON_NODE")
    memory = _memory_mib(environ, cpus, gpus)
    if gpus is not None and has.gpu_variable is None:
        has = capacities.override(has, num_gpus=gpus)  # GPUs without device files: Slurm counts them only
    return has._replace(
        num_cpus=min(has.num_cpus, cpus or has.num_cpus),
        memory_mib=min(has.memory_mib, memory or has.memory_mib),
        num_nodes=nodes,
        node_names=_node_names(environ, nodes) if nodes > 1 else (),
    )


def hostnames(text: str) -> list[str]:
    """The nodes of a list as Slurm writes it: `c[1-2,07],g1` has c1, c2, c07 and g1. What is no such list is empty."""
    if not re.fullmatch(rf"{_ENTRY}(?:,{_ENTRY})*", text):
        return []
    found: list[str] = []
    for entry in re.findall(_ENTRY, text):
        parts = [_numbers(part) if part.startswith("[") else [part] for part in re.findall(r"\[[^]]*\]|[^[]+", entry)]
        if math.prod(map(len, parts)) + len(found) > _MAX_NODES:
            return []
        found += ["".join(each) for each in itertools.product(*parts)]
    return found


def _numbers(brackets: str) -> list[str]:
    """`[08-10,3]` has 08, 09, 10 and 3. None at all, where there are more than any cluster has."""
    found: list[str] = []
    for part in brackets[1:-1].split(","):
        first, _, last = part.partition("-")
        begin, end = naming.whole(first), naming.whole(last or first)
        if begin is None or end is None or end - begin + len(found) >= _MAX_NODES:
            return []
        found += [f"{number:0{len(first)}d}" for number in range(begin, end + 1)]
    return found


def _node_names(environ: Mapping[str, str], nodes: int) -> tuple[str, ...]:
    """Ours first; none where they are not as many as they should be."""
    names = hostnames(environ.get("SLURM_JOB_NODELIST", ""))
    here = environ.get("SLURMD_NODENAME", "")
    names.sort(key=lambda name: name != here)
    return tuple(names) if len(names) == nodes else ()


def seconds_left(environ: Mapping[str, str] = os.environ, clock: Callable[[], float] = time.time) -> float | None:
    """How long the allocation that we are in may still run; None where it has no limit. Raises SlurmError.

    Slurm is asked only where it has not said it in the environment (it does so from version 23 on).
    """
    end = _number(environ, "SLURM_JOB_END_TIME")
    if end:
        return max(0.0, end - clock())
    found = job_id(environ)
    if found is None:
        return None
    from torc_spool import slurm  # not needed where there is none

    return slurm.seconds_left(found, environ)


class Limit(NamedTuple):
    """How long a runner may go on; all from now."""

    seconds: float | None  # None: for ever
    reason: str  # what to say of jobs that this cuts short
    walltime_s: float | None = None  # when Slurm ends everything, where that is what limits the runner


def time_limit(
    asked_s: float | None,
    settings: Mapping[str, Any],
    tell: Callable[[str], None],
    environ: Mapping[str, str] = os.environ,
    clock: Callable[[], float] = time.time,
) -> Limit:
    """How long a runner may go on.

    The shorter of what a person `asked` and what is left to the allocation, less a margin: that of the workflow's
    settings (`compute_node_expiration_buffer_seconds`), else 90 s, but no more than a tenth. Where Slurm does not
    answer that is told, and its notice is all there is.
    """
    try:
        left = seconds_left(environ, clock)
    except SlurmError as error:
        tell(f"the end of this allocation is not known: {error}")
        left = None
    if left is None:
        return Limit(asked_s, OWN_END)
    usable = max(0.0, left - margin(left, settings))
    if asked_s is not None and asked_s <= usable:
        return Limit(asked_s, OWN_END)
    return Limit(usable, WALLTIME_END, left)


def margin(left_s: float, settings: Mapping[str, Any]) -> float:
    """How long before the end of its allocation a runner ends, where so much is left when it begins."""
    asked = _seconds(settings, "compute_node_expiration_buffer_seconds")
    return min(MARGIN_S, 0.1 * left_s) if asked is None else asked


def patience(settings: Mapping[str, Any]) -> float:
    """How long a runner with nothing to do waits for new jobs unless it is told."""
    return _seconds(settings, "compute_node_wait_for_new_jobs_seconds") or 0.0


def _seconds(settings: Mapping[str, Any], field: str) -> float | None:
    value = settings.get(field)
    return float(value) if isinstance(value, int | float) and value >= 0 else None


def _num_nodes(environ: Mapping[str, str]) -> int:
    """Those of the whole allocation for its script, one for each task that `srun` has started in it."""
    step = _number(environ, "SLURM_STEP_ID")
    if step is not None and step < _INTERACTIVE_STEP:
        return 1
    return _number(environ, "SLURM_JOB_NUM_NODES") or 1


def _num_cpus(environ: Mapping[str, str], nodes: int) -> int | None:
    """On this node; where we speak for several, on the smallest of them."""
    here = _number(environ, "SLURM_CPUS_ON_NODE")
    if nodes == 1:
        return here
    listed = re.findall(r"(?:^|,)(\d+)", environ.get("SLURM_JOB_CPUS_PER_NODE", ""))
    each = [number for text in listed if (number := naming.whole(text))]
    return min(each, default=here)


def _memory_mib(environ: Mapping[str, str], cpus: int | None, gpus: int | None) -> int | None:
    """Slurm sets the variable of the option by which memory was asked for; 0 is all of the node's."""
    per_cpu, per_gpu = _number(environ, "SLURM_MEM_PER_CPU"), _number(environ, "SLURM_MEM_PER_GPU")
    return (
        _number(environ, "SLURM_MEM_PER_NODE")
        or (per_cpu and cpus and per_cpu * cpus)
        or (per_gpu and gpus and per_gpu * gpus)
        or None
    )


def _number(environ: Mapping[str, str], name: str) -> int | None:
    with suppress(ValueError):
        return int(environ.get(name, ""))
    return None
