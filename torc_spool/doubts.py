"""Whether what is asked of Slurm could ever start: most sites do not refuse what is more than a partition has."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

from torc_spool import sbatch, siteprofile, slurm
from torc_spool.errors import SlurmError, SpecError
from torc_spool.naming import whole
from torc_spool.sbatch import Options
from torc_spool.siteprofile import Partition
from torc_spool.slurmplan import slurm_time

_ASK_TIMEOUT_S = 10.0
_ELSEWHERE = ("clusters", "cluster-constraint")  # sinfo tells of this cluster


def ask(requests: Iterable[Options], environ: Mapping[str, str] = os.environ) -> list[str]:
    """A sentence for each request that may wait for ever, by one call of sinfo. Where that tells nothing: none."""
    if environ.get("SLURM_CLUSTERS"):
        return []
    try:
        site = siteprofile.parse_sinfo(slurm.call(siteprofile.SINFO, environ=environ, timeout_s=_ASK_TIMEOUT_S))
    except (SlurmError, SpecError):
        return []
    found = (about(asked, site.partitions) for asked in requests)
    return [doubt for doubt in found if doubt is not None]


def about(asked: Options, partitions: Sequence[Partition]) -> str | None:
    """Why a request may wait for ever; None: nothing is known that speaks against it. Pure.

    Nodes of one partition need not be alike: each need is compared with the most that any of them has.
    """
    if any(name in asked for name in _ELSEWHERE):
        return None
    named = [name.strip() for name in (asked.get("partition") or "").split(",") if name.strip()]
    names = named or [each.name for each in partitions if each.is_default][:1]
    reasons = []
    for name in names:
        nodes = [each for each in partitions if each.name == name]
        reason = next(_reasons(asked, nodes), None) if nodes else None
        if reason is None:
            return None  # Slurm starts it in any of them, and refuses one that sinfo does not show
        reasons.append(f"it asks for {reason}")
    return f"this may wait for ever: {'; '.join(reasons)}, as sinfo shows" if reasons else None


def _reasons(asked: Options, nodes: Sequence[Partition]) -> Iterator[str]:
    """Of one partition, whose kinds of nodes these are."""
    name, limit, walltime = nodes[0].name, nodes[0].max_walltime_s, sbatch.walltime(asked["time"] or "")
    if limit is not None and (walltime is None or walltime > limit):
        yield f"a walltime of {asked['time']}, and partition {name} allows {slurm_time(limit)}"
    count, least = int(asked["nodes"] or 1), nodes[0].min_nodes
    most = min(sum(count if each.num_nodes is None else each.num_nodes for each in nodes), nodes[0].max_nodes or count)
    if count > most:
        yield f"{count} nodes, and partition {name} gives {most}"
    if count < least:
        yield f"{count} node{'s' * (count > 1)}, and partition {name} gives {least} or more"
    cpus, has_cpus = _cpus(asked, count), max(each.cpus_per_node for each in nodes)
    if cpus > has_cpus:
        yield f"{cpus} cpus on a node, and those of partition {name} have {has_cpus}"
    memory = sbatch.memory_mib(asked.get("mem") or "") or 0
    has_memory = max(memory if each.memory_mib is None else each.memory_mib for each in nodes)
    if memory > has_memory:
        yield f"{memory} MiB on a node, and those of partition {name} have {has_memory}"


def _cpus(asked: Options, nodes: int) -> int:
    """On each node, at the least; what is no number Slurm has to judge."""
    tasks = max(whole(asked.get("ntasks-per-node") or "") or 1, -(-(whole(asked.get("ntasks") or "") or 1) // nodes))
    return tasks * (whole(asked.get("cpus-per-task") or "") or 1)
