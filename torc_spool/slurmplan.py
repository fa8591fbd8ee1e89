"""Which allocations a workflow's jobs take: partitions, schedulers, walltimes, numbers. Pure, on plain values.

`docs/submit-slurm.md` has the rules and formulas.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from torc_spool.complaints import quote
from torc_spool.errors import SpecError, UsageError
from torc_spool.model import Resources
from torc_spool.quantities import format_duration
from torc_spool.siteprofile import Partition

ROOM_S = 120  # a runner's start, and the margin that it keeps before the end of its allocation
DEFAULT_WALLTIME_S = 3600  # where neither the jobs nor the partition say one
RUNNER_MIB = 128  # for the runner itself, beside its jobs
MAX_ALLOCATIONS = 1000  # for one stage
BY_REQUIREMENT, BY_PARTITION = "resource-requirements", "partition"
BY_JOBS, BY_LIMIT = "max-job-runtime", "max-partition-time"
NO_REQUIREMENT = "default"  # what the group of jobs without requirements is called


class Wanted(NamedTuple):
    """A job, as far as allocations go."""

    id: int
    name: str
    requirement: str | None
    resources: Resources
    stage: int  # from 1


class Terms(NamedTuple):
    """What a person asks of the plan."""

    group_by: str = BY_REQUIREMENT
    strategy: str = BY_JOBS
    multiplier: float = 1.5
    single_allocation: bool = False
    max_nodes: int | None = None
    room_s: int = ROOM_S


USUAL = Terms()


class Stage(NamedTuple):
    """Jobs of one scheduler that may run at one time, and how many allocations are asked for when they are ready."""

    number: int
    jobs: tuple[Wanted, ...]
    num_allocations: int


class Group(NamedTuple):
    """Jobs that share a scheduler."""

    name: str
    requirements: tuple[str | None, ...]
    partition: Partition
    needs: Resources  # the most that any job of it needs
    stages: tuple[Stage, ...]
    at_once: int  # jobs that run side by side in one allocation, or on each of its nodes
    nodes: int  # of one allocation
    walltime_s: int
    one_runner_per_node: bool
    without_runtime: int  # how many jobs state none
    waves: int = 1  # how often, one after the other, an allocation has time for `at_once` jobs

    @property
    def num_jobs(self) -> int:
        return sum(len(stage.jobs) for stage in self.stages)

    @property
    def num_cpus(self) -> int:
        """On each node."""
        return self.needs.num_cpus * self.at_once

    @property
    def num_gpus(self) -> int:
        return self.needs.num_gpus * self.at_once

    @property
    def memory_mib(self) -> int | None:
        """On each node; None where no job states any."""
        if self.needs.memory_bytes is None:
            return None
        asked = self.needs.needs.memory_mib * self.at_once + RUNNER_MIB
        return asked if self.partition.memory_mib is None else min(asked, self.partition.memory_mib)


def plan(jobs: Iterable[Wanted], partitions: Sequence[Partition], terms: Terms = USUAL) -> tuple[Group, ...]:
    """Every job in one group, in order of the groups' first jobs. Raises SpecError, UsageError."""
    chosen: dict[Resources, Partition] = {}
    members: dict[tuple[object, ...], list[Wanted]] = {}
    where: dict[tuple[object, ...], Partition] = {}
    for job in jobs:
        partition = chosen.get(job.resources)
        if partition is None:
            partition = chosen[job.resources] = choose(job, partitions, terms.room_s)
        key: tuple[object, ...] = (job.requirement,)
        if terms.group_by == BY_PARTITION:
            key = (partition, job.resources.num_nodes)
        members.setdefault(key, []).append(job)
        where[key] = partition
    names = _names(members, where, terms)
    return tuple(_group(names[key], where[key], listed, terms) for key, listed in members.items())


def choose(job: Wanted, partitions: Sequence[Partition], room_s: int = ROOM_S) -> Partition:
    """The partition that fits with the least waste. Raises SpecError, with what the largest has."""
    fitting = [each for each in partitions if fits(job.resources, each, room_s)]
    if not fitting:
        raise SpecError(_no_fit(job, partitions, room_s), where=f"job {quote(job.name)}")
    stated = job.resources.runtime_s is not None
    least_mib = min((each.memory_mib for each in fitting if each.memory_mib is not None), default=math.inf)

    def waste(each: Partition) -> tuple[object, ...]:
        limit = math.inf if each.max_walltime_s is None else each.max_walltime_s
        usual = not each.is_default
        memory = math.inf if each.memory_mib is None else each.memory_mib
        is_large = each.memory_mib is not None and each.memory_mib > 2 * least_mib  # kept for those that need it
        time = (is_large, limit, usual) if stated else (usual, is_large, -limit)
        needless = each.gpus_per_node if not job.resources.num_gpus else 0
        return (needless > 0, *time, each.gpus_per_node, memory, each.cpus_per_node, each.name)

    return min(fitting, key=waste)


def fits(needs: Resources, partition: Partition, room_s: int = ROOM_S) -> bool:
    """Whether a job can run in an allocation there: on its nodes, in its time, and a runner's own time with it."""
    nodes = min(partition.num_nodes or math.inf, partition.max_nodes or math.inf)
    return (
        needs.num_cpus <= partition.cpus_per_node
        and needs.num_gpus <= partition.gpus_per_node
        and (partition.memory_mib is None or needs.needs.memory_mib <= partition.memory_mib)
        and partition.min_nodes <= needs.num_nodes <= nodes
        and (
            needs.runtime_s is None
            or partition.max_walltime_s is None
            or needs.runtime_s + room_s <= partition.max_walltime_s
        )
    )


def _no_fit(job: Wanted, partitions: Sequence[Partition], room_s: int) -> str:
    needs = job.resources
    time = "" if needs.runtime_s is None else f" for {format_duration(needs.runtime_s + room_s)}"
    least = f"{needs.num_cpus} cpus, {needs.num_gpus} gpus and {needs.needs.memory_mib} MiB"
    runner = "" if needs.runtime_s is None else f" ({room_s} s of it for the runner's start and end)"
    if not partitions:
        return "there are no partitions to choose from"
    gpu = needs.num_gpus > 0
    largest = max(
        partitions,
        key=lambda each: (each.gpus_per_node > 0 if gpu else True, each.memory_mib or math.inf, each.cpus_per_node),
    )
    limit = "no limit of time" if largest.max_walltime_s is None else format_duration(largest.max_walltime_s)
    memory = "unknown memory" if largest.memory_mib is None else f"{largest.memory_mib} MiB"
    count = "unknown" if largest.num_nodes is None else largest.num_nodes
    return (
        f"no partition fits {least} on {needs.num_nodes} node{'s' if needs.num_nodes > 1 else ''}{time}{runner}; "
        f"the largest, {largest.name}, has {largest.cpus_per_node} cpus, {largest.gpus_per_node} gpus and {memory} "
        f"on each of its nodes (number: {count}), and {limit}"
    )


def _names(
    members: Mapping[tuple[object, ...], Sequence[Wanted]], where: Mapping[tuple[object, ...], Partition], terms: Terms
) -> dict[tuple[object, ...], str]:
    names: dict[tuple[object, ...], str] = {}
    taken: set[str] = set()
    for key, listed in members.items():
        requirement = listed[0].requirement
        base = NO_REQUIREMENT if requirement is None else requirement
        if terms.group_by == BY_PARTITION:
            base = where[key].name
        name, number = f"{base}_scheduler", 1
        while name in taken:
            number += 1
            name = f"{base}_{number}_scheduler"
        taken.add(name)
        names[key] = name
    return names


def _group(name: str, partition: Partition, jobs: Sequence[Wanted], terms: Terms) -> Group:
    needs = _most(job.resources for job in jobs)
    stages: dict[int, list[Wanted]] = {}
    for job in jobs:
        stages.setdefault(job.stage, []).append(job)
    without = sum(job.resources.runtime_s is None for job in jobs)
    walltime_s = walltime(needs.runtime_s, partition, terms, some_unstated=without > 0)
    waves = 1
    if needs.runtime_s is not None and not without:
        waves = max(1, (walltime_s - terms.room_s) // needs.runtime_s)
    multi = needs.num_nodes > 1
    at_once = 1 if multi else min(per_node(needs, partition), max(map(len, stages.values())))
    most = _most_allocations(name, needs.num_nodes, terms.max_nodes)
    counts = {number: min(most, math.ceil(len(each) / (at_once * waves))) for number, each in stages.items()}
    nodes = needs.num_nodes
    together = terms.single_allocation and not multi
    if together:
        nodes = min(
            max(counts.values()), *(limit for limit in (partition.num_nodes, partition.max_nodes) if limit), most
        )
        counts = dict.fromkeys(counts, 1)
    return Group(
        name=name,
        requirements=tuple(dict.fromkeys(job.requirement for job in jobs)),
        partition=partition,
        needs=needs,
        stages=tuple(Stage(number, tuple(stages[number]), counts[number]) for number in sorted(stages)),
        at_once=at_once,
        nodes=nodes,
        walltime_s=walltime_s,
        one_runner_per_node=together and nodes > 1,
        without_runtime=without,
        waves=waves,
    )


def _most(resources: Iterable[Resources]) -> Resources:
    """The most of each: what fits each job."""
    every = list(resources)
    return Resources(
        num_cpus=max(each.num_cpus for each in every),
        num_gpus=max(each.num_gpus for each in every),
        num_nodes=max(each.num_nodes for each in every),
        memory_bytes=max((each.memory_bytes for each in every if each.memory_bytes is not None), default=None),
        runtime_s=max((each.runtime_s for each in every if each.runtime_s is not None), default=None),
    )


def walltime(longest_s: int | None, partition: Partition, terms: Terms, *, some_unstated: bool) -> int:
    """Whole minutes, as Slurm counts, but never over the limit."""
    limit = partition.max_walltime_s
    usual = partition.default_walltime_s or DEFAULT_WALLTIME_S
    if terms.strategy == BY_LIMIT and limit is not None:
        return limit
    wanted = 0
    if longest_s is not None:
        wanted = max(math.ceil(Fraction(str(terms.multiplier)) * longest_s), longest_s + terms.room_s)
    if some_unstated or longest_s is None:
        wanted = max(wanted, usual)
    whole = math.ceil(wanted / 60) * 60
    return whole if limit is None else min(whole, limit)


def per_node(needs: Resources, partition: Partition) -> int:
    """How many jobs of these needs run side by side on a node."""
    counts = [partition.cpus_per_node // needs.num_cpus]
    if partition.memory_mib is not None:
        counts.append(partition.memory_mib // needs.needs.memory_mib)
    if needs.num_gpus:
        counts.append(partition.gpus_per_node // needs.num_gpus)
    return max(1, min(counts))


def _most_allocations(name: str, num_nodes: int, max_nodes: int | None) -> int:
    """More than the partition has nodes may be asked for: Slurm lets the others wait for their turn."""
    if max_nodes is None:
        return MAX_ALLOCATIONS
    if max_nodes < num_nodes:
        raise UsageError(f"--max-nodes {max_nodes}: a job of {name} needs {num_nodes} nodes")
    return min(MAX_ALLOCATIONS, max_nodes // num_nodes)


def slurm_time(seconds: int) -> str:
    """A walltime as Slurm writes it: `04:00:00`, `2-12:00:00`."""
    days, rest = divmod(seconds, 86400)
    text = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}-{text}" if days else text
