"""Which ready jobs a runner takes: pure functions of names, free resources and a limit.

Runners and `preview` use the same `select`. The rules are those of Torc's `claim_jobs_based_on_resources` and
`claim_next_jobs`, but for one thing: every ready job is looked at, not only the first few.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from torc_spool import naming
from torc_spool.errors import BadName
from torc_spool.model import Needs


class Free(NamedTuple):
    """What is free on a node, or what a node has in all."""

    cpus: int
    memory_mib: int
    gpus: int = 0


class Offer(NamedTuple):
    """What a runner has to give to jobs at one moment."""

    capacity: Free  # of each of its nodes, in all
    nodes: tuple[Free, ...]  # what is free on each of them
    seconds_left: float | None = None  # None: no end of time
    slots: int | None = None  # how many jobs more; None: no limit
    ignore_resources: bool = False  # queue-depth parallelism: only the slots count
    own_node_only: bool = False  # jobs of one node run on the first; the others are for those that spread themselves

    @classmethod
    def idle(
        cls,
        capacity: Free,
        num_nodes: int = 1,
        *,
        seconds_left: float | None = None,
        slots: int | None = None,
        ignore_resources: bool = False,
        own_node_only: bool = False,
    ) -> Offer:
        return cls(capacity, (capacity,) * num_nodes, seconds_left, slots, ignore_resources, own_node_only)

    @property
    def is_used_up(self) -> bool:
        """Whether no job at all can have anything of it."""
        if self.ignore_resources:
            return self.slots == 0
        return self.slots == 0 or all(free.cpus < 1 for free in self.nodes)

    @property
    def nodes_for_one(self) -> tuple[Free, ...]:
        """Those on which jobs of one node may run."""
        return self.nodes[:1] if self.own_node_only else self.nodes


class Entry(NamedTuple):
    """A ready job: its file's name, and the directory below `ready/` in which it lies. Sorts in order of claims."""

    name: str
    directory: str


class Pick(NamedTuple):
    """A job to claim and the indices of the runner's nodes that it will use."""

    entry: Entry
    needs: Needs
    nodes: tuple[int, ...]


class _Bucket:
    """Ready jobs with the same needs, in order. `start` is the first that is still there."""

    __slots__ = ("entries", "needs", "start")

    def __init__(self, needs: Needs) -> None:
        self.needs = needs
        self.entries: list[Entry] = []
        self.start = 0


class ReadyQueue:
    """A view of the ready jobs, by needs: what does not fit is skipped with all that need the same."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self._length = 0
        self.foreign: list[Entry] = []
        for entry in sorted(entries):
            bucket = self._bucket(entry)
            if bucket is None:
                self.foreign.append(entry)
            else:
                bucket.entries.append(entry)
        self._length = sum(len(bucket.entries) for bucket in self._buckets.values())

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Entry]:
        """All entries in order of claims."""
        return heapq.merge(*(bucket.entries[bucket.start :] for bucket in self._buckets.values()))

    def needs_of(self, entry: Entry) -> Needs:
        return self._buckets[entry.name.split("-", 3)[2]].needs

    def insert(self, entry: Entry) -> None:
        """Add one entry at its place."""
        bucket = self._bucket(entry)
        if bucket is None:
            raise BadName(f"{entry.name!r} is not the name of a job's file")
        bisect.insort(bucket.entries, entry, lo=bucket.start)
        self._length += 1

    def discard(self, picks: Iterable[Pick]) -> None:
        """Take out what `select` picked: in each bucket those are the first ones."""
        for pick in picks:
            bucket = self._buckets[pick.entry.name.split("-", 3)[2]]
            index = bucket.start
            if index < len(bucket.entries) and bucket.entries[index] == pick.entry:
                bucket.start += 1
            else:  # an earlier one has been inserted since, or it is gone
                index = bisect.bisect_left(bucket.entries, pick.entry, lo=bucket.start)
                if bucket.entries[index : index + 1] != [pick.entry]:
                    continue
                del bucket.entries[index]
            self._length -= 1
            if bucket.start > 1024 and bucket.start * 2 > len(bucket.entries):
                del bucket.entries[: bucket.start]
                bucket.start = 0

    def heads(self) -> list[tuple[Entry, int, _Bucket]]:
        """The first entry of each bucket, as a heap."""
        heap = [
            (bucket.entries[bucket.start], bucket.start, bucket)
            for bucket in self._buckets.values()
            if bucket.start < len(bucket.entries)
        ]
        heapq.heapify(heap)
        return heap

    def _bucket(self, entry: Entry) -> _Bucket | None:
        if naming.job_id(entry.name) is None:
            return None
        key = entry.name.split("-", 3)[2]
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(naming.parse_job(entry.name).needs)
        return bucket


def select(queue: ReadyQueue, offer: Offer) -> list[Pick]:
    """The jobs to claim now, in order; the queue is not changed.

    Walks the ready jobs in order and takes each that fits in what is then still free. What is free only shrinks
    on the way, so a job that does not fit rules out all later ones with the same needs.
    """
    slots = math.inf if offer.slots is None else offer.slots
    nodes = list(offer.nodes)
    picks: list[Pick] = []
    if slots <= 0 or not (offer.ignore_resources or any(node.cpus > 0 for node in nodes)):
        return picks
    heap = queue.heads()
    while heap and len(picks) < slots:
        entry, index, bucket = heap[0]
        placed = place(bucket.needs, nodes, offer)
        if placed is None:
            heapq.heappop(heap)
            continue
        if not offer.ignore_resources:
            occupy(bucket.needs, nodes, placed)
        picks.append(Pick(entry, bucket.needs, placed))
        if index + 1 < len(bucket.entries):
            heapq.heapreplace(heap, (bucket.entries[index + 1], index + 1, bucket))
        else:
            heapq.heappop(heap)
    return picks


def place(needs: Needs, nodes: list[Free], offer: Offer) -> tuple[int, ...] | None:
    """The nodes that a job would run on, or None when it does not fit.

    A one-node job goes to the first node with room; one of n > 1 nodes takes n nodes that nobody uses, the last ones
    where only the first can do the work of one-node jobs.
    """
    if offer.ignore_resources:
        return (0,)
    if offer.seconds_left is not None and needs.runtime_s > offer.seconds_left:
        return None
    if needs.num_nodes == 1:
        for index, free in enumerate(nodes[:1] if offer.own_node_only else nodes):
            if _fits(needs, free):
                return (index,)
        return None
    if not _fits(needs, offer.capacity):
        return None
    whole = [index for index, free in enumerate(nodes) if free == offer.capacity]
    if len(whole) < needs.num_nodes:
        return None
    return tuple(whole[-needs.num_nodes :] if offer.own_node_only else whole[: needs.num_nodes])


def _fits(needs: Needs, free: Free) -> bool:
    return needs.num_cpus <= free.cpus and needs.memory_mib <= free.memory_mib and needs.num_gpus <= free.gpus


def occupy(needs: Needs, nodes: list[Free], placed: tuple[int, ...]) -> None:
    """Take a placed job's resources from the nodes; a job of several nodes takes all that they have."""
    for index in placed:
        free = nodes[index]
        if needs.num_nodes > 1:
            nodes[index] = Free(0, 0, 0)
        else:
            nodes[index] = Free(
                free.cpus - needs.num_cpus, free.memory_mib - needs.memory_mib, free.gpus - needs.num_gpus
            )


def after(offer: Offer, picks: Iterable[Pick]) -> Offer:
    """What is left to give when the picks have been claimed."""
    nodes = list(offer.nodes)
    count = 0
    for pick in picks:
        count += 1
        if not offer.ignore_resources:
            occupy(pick.needs, nodes, pick.nodes)
    slots = None if offer.slots is None else offer.slots - count
    return offer._replace(nodes=tuple(nodes), slots=slots)


def never_fits(needs: Needs, offer: Offer) -> str | None:
    """Why a job could not even run on this runner if it were idle, as a sentence's end; None when it could."""
    if offer.ignore_resources:
        return None
    capacity = offer.capacity
    for wanted, has, unit in (
        (needs.num_nodes, len(offer.nodes), "nodes"),
        (needs.num_cpus, capacity.cpus, "cpus"),
        (needs.num_gpus, capacity.gpus, "gpus"),
        (needs.memory_mib, capacity.memory_mib, "MiB of memory"),
    ):
        if wanted > has:
            where = " on a node" if unit != "nodes" and len(offer.nodes) > 1 else ""
            return f"needs {_count(wanted, unit)}{where}, the runner has {has}"
    if offer.seconds_left is not None and needs.runtime_s > offer.seconds_left:
        return f"may run for {needs.runtime_s} s, the runner has {max(0, int(offer.seconds_left))} s left"
    return None


def _count(number: int, unit: str) -> str:
    return f"{number} {unit.removesuffix('s') if number == 1 else unit}"


def why_not(needs: Needs, left: Offer) -> str:
    """Why a ready job is skipped by a runner that has this left to give."""
    never = never_fits(needs, left)
    if never is not None:
        return never
    if left.slots is not None and left.slots <= 0:
        return "the limit of jobs is reached"
    if needs.num_nodes > 1:
        whole = sum(1 for free in left.nodes if free == left.capacity)
        return f"needs {needs.num_nodes} whole nodes, {whole} are free"
    nodes = left.nodes_for_one
    best = max(nodes)
    for wanted, has, unit in (
        (needs.num_cpus, best.cpus, "cpus"),
        (needs.num_gpus, max(free.gpus for free in nodes), "gpus"),
        (needs.memory_mib, max(free.memory_mib for free in nodes), "MiB of memory"),
    ):
        if wanted > has:
            return f"needs {_count(wanted, unit)}, {has} are free"
    return "no single node has all that it needs free at once"
