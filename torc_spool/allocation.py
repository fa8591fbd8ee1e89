"""What a Slurm allocation gives to a runner inside it: cpus, memory, GPUs, nodes and time."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from torc_spool import capacity as capacities
from torc_spool import slurm
from torc_spool.capacity import Capacity

MARGIN_S = 90  # what is to be over before the end: Slurm's own notice comes up to a minute early
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
    )


def seconds_left(environ: Mapping[str, str] = os.environ, clock: Callable[[], float] = time.time) -> float | None:
    """How long the allocation that we are in may still run; None where it has no limit. Raises SlurmError.

    Slurm is asked only where it has not said it in the environment (it does so from version 23 on).
    """
    end = _number(environ, "SLURM_JOB_END_TIME")
    if end:
        return max(0.0, end - clock())
    found = job_id(environ)
    return None if found is None else slurm.seconds_left(found, environ)


def usable(seconds: float, margin_s: float | None = None) -> float:
    """The part of the time left that jobs may use: less a margin, which is at most a tenth unless it was `given`."""
    return max(0.0, seconds - (min(MARGIN_S, 0.1 * seconds) if margin_s is None else margin_s))


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
    each = [int(number) for number in re.findall(r"(?:^|,)(\d+)", environ.get("SLURM_JOB_CPUS_PER_NODE", ""))]
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
