"""What a site has: its partitions and their limits, from a profile (YAML) or from what `sinfo` prints. Pure.

Nodes of one partition that are not alike are a `Partition` each, of one name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from torc_spool import sbatch
from torc_spool.complaints import check_name, check_unique, join_where, place, read_field
from torc_spool.errors import SpecError
from torc_spool.model import MIB
from torc_spool.quantities import parse_duration, parse_memory
from torc_spool.specfile import read_document
from torc_spool.specread import read_record
from torc_spool.specrecords import Memory, NumCpus, NumGpus, NumNodes, Records, SpecRecord, Text, Truth

SINFO_FORMAT = "%R|%P|%a|%c|%m|%G|%D|%l|%L|%s"
SINFO = ("sinfo", "--noheader", "--exact", f"--format={SINFO_FORMAT}")

_GPUS = re.compile(r"(?:^|,)gpu(?::[^:,]*[^:,0-9][^:,]*)?(?::(\d+))?(?=,|$)")

_UNITS = {"K": 1024, "M": 1024**2}

T = TypeVar("T")


class Partition(NamedTuple):
    """Nodes of one kind, and how they may be asked for."""

    name: str
    cpus_per_node: int
    memory_mib: int | None = None  # of a node; None: not known, and not a limit
    gpus_per_node: int = 0
    num_nodes: int | None = None  # None: not known
    max_walltime_s: int | None = None  # None: no limit
    default_walltime_s: int | None = None
    min_nodes: int = 1  # of one allocation
    max_nodes: int | None = None
    is_default: bool = False


class Site(NamedTuple):
    """A cluster."""

    partitions: tuple[Partition, ...]
    name: str | None = None
    account: str | None = None


class SiteRecord(SpecRecord, frozen=True, kw_only=True):
    """A profile."""

    partitions: Records
    name: Text | None = None
    display_name: Text | None = None
    description: Text | None = None
    default_account: Text | None = None


class PartitionRecord(SpecRecord, frozen=True, kw_only=True):
    """One item of `partitions`."""

    name: Text
    cpus_per_node: NumCpus
    memory_per_node: Memory | None = None
    gpus_per_node: NumGpus = 0
    num_nodes: NumNodes | None = None
    max_walltime: Text | None = None
    default_walltime: Text | None = None
    min_nodes: NumNodes = 1
    max_nodes: NumNodes | None = None
    default: Truth = False


def parse(text: str | bytes, source: str) -> Site:
    """The site that a profile describes. Raises SpecError."""
    try:
        document = read_document(text, source)
        if document is None:
            raise SpecError("is empty; a profile has at least partitions")
        record = read_record(SiteRecord, document, lambda: None)
        if not record.partitions:
            raise SpecError("is empty; give at least one partition", where="partitions")
        partitions = tuple(_partition(number, item) for number, item in enumerate(record.partitions, start=1))
        check_unique((each.name for each in partitions), "partition")
        if sum(each.is_default for each in partitions) > 1:
            raise SpecError("default is true for more than one; a site has one default", where="partitions")
    except SpecError as error:
        raise SpecError(error.message, source=error.source or source, where=error.where) from error
    return Site(partitions, record.display_name or record.name, record.default_account)


def _partition(number: int, item: Any) -> Partition:
    where = place("partition", number, item)
    record = read_record(PartitionRecord, item, lambda: where)
    check_name(record.name, join_where(where, "name"))
    if record.max_nodes is not None and record.max_nodes < record.min_nodes:
        raise SpecError("is less than min_nodes", where=join_where(where, "max_nodes"))
    memory = _optional(where, "memory_per_node", parse_memory, record.memory_per_node)
    return Partition(
        name=record.name,
        cpus_per_node=record.cpus_per_node,
        memory_mib=None if memory is None else memory // MIB,
        gpus_per_node=record.gpus_per_node,
        num_nodes=record.num_nodes,
        max_walltime_s=_optional(where, "max_walltime", _duration, record.max_walltime),
        default_walltime_s=_optional(where, "default_walltime", _duration, record.default_walltime),
        min_nodes=record.min_nodes,
        max_nodes=record.max_nodes,
        is_default=record.default,
    )


def _optional(where: str, field: str, read: Callable[[Any], T], value: Any) -> T | None:
    return None if value is None else read_field(where, field, read, value)


def _duration(text: str) -> int | None:
    """As Slurm writes it, or as ISO 8601 does."""
    return parse_duration(text) if text.strip().upper().startswith("P") else sbatch.walltime(text)


def parse_sinfo(text: str) -> Site:
    """The site of what `SINFO` prints; partitions that are not up are left out. Raises SpecError."""
    found: dict[Partition, None] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        fields = [field.strip() for field in line.split("|")]
        if not line.strip():
            continue
        try:
            partition, state = _row(fields)
        except ValueError as error:
            raise SpecError(f"{line[:200]!r} is not understood", source="sinfo", where=f"line {number}") from error
        if state == "up":
            found[partition] = None
    if not found:
        raise SpecError("shows no partition that is up; give --profile FILE", source="sinfo")
    return Site(tuple(found))


def _row(fields: Sequence[str]) -> tuple[Partition, str]:
    name, marked, state, cpus, memory, gres, nodes, limit, usual, size = fields
    least, _, most = size.partition("-")
    partition = Partition(
        name=name,
        cpus_per_node=_count(cpus),
        memory_mib=_count(memory) or None,
        gpus_per_node=gpus(gres),
        num_nodes=_count(nodes),
        max_walltime_s=_limit(limit),
        default_walltime_s=_limit(usual),
        min_nodes=max(1, _count(least)),
        max_nodes=None if most == "infinite" else _count(most or least),
        is_default=marked.endswith("*"),
    )
    return partition, state


def _count(text: str) -> int:
    """`4096+`, where nodes of one line differ; `2K`, as Slurm writes 2048."""
    plain = text.rstrip("+")
    unit = _UNITS.get(plain[-1:], 1)
    return int(plain if unit == 1 else plain[:-1]) * unit


def _limit(text: str) -> int | None:
    if text.lower() in ("infinite", "n/a", "none", ""):
        return None
    try:
        return sbatch.walltime(text)
    except SpecError as error:
        raise ValueError(text) from error


def gpus(gres: str) -> int:
    """How many GPUs a node's generic resources hold: `gpu:4`, `gpu:a100:2(S:0-1),nvme:1`, `(null)`."""
    plain = re.sub(r"\([^()]*\)", "", gres)
    return sum(int(count or 1) for count in _GPUS.findall(plain))
