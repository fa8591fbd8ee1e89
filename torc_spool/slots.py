"""What a runner has to give, and what its jobs have of it: nodes, cpus, memory, and GPUs by device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torc_spool import select
from torc_spool.capacity import Capacity
from torc_spool.model import Needs
from torc_spool.select import Free, Offer, Pick


class Grant(NamedTuple):
    """What one running job has."""

    needs: Needs
    nodes: tuple[int, ...]
    devices: tuple[str, ...]  # of the job's first node
    hosts: tuple[str, ...] = ()  # of a job of several nodes, where their names are known


class Slots:
    """The books of one runner. GPUs are numbered alike on all of its nodes."""

    def __init__(self, capacity: Capacity, *, max_parallel_jobs: int | None = None) -> None:
        self.capacity = capacity
        self.max_parallel_jobs = max_parallel_jobs
        self.running = 0
        self._whole = Free(capacity.num_cpus, capacity.memory_mib, len(capacity.gpus))
        self._nodes = [self._whole] * capacity.num_nodes
        self._devices = [list(capacity.gpus) for _ in self._nodes]
        self._own_node_only = len(capacity.node_names) > 1

    @property
    def ignores_resources(self) -> bool:
        return self.max_parallel_jobs is not None

    def offer(self, seconds_left: float | None = None) -> Offer:
        """What can be given now."""
        if self.max_parallel_jobs is not None:
            slots = max(0, self.max_parallel_jobs - self.running)
            return Offer(self._whole, tuple(self._nodes), None, slots, ignore_resources=True)
        return Offer(self._whole, tuple(self._nodes), seconds_left, own_node_only=self._own_node_only)

    def take(self, pick: Pick) -> Grant:
        """Give a picked job its share. The pick is one that `select` made of this offer."""
        self.running += 1
        if self.ignores_resources:
            return Grant(pick.needs, (), (), self._hosts(pick.needs, range(pick.needs.num_nodes)))
        select.occupy(pick.needs, self._nodes, pick.nodes)
        devices: tuple[str, ...] = ()
        for index in pick.nodes:
            count = pick.needs.num_gpus
            given, self._devices[index] = self._devices[index][:count], self._devices[index][count:]
            devices = devices or tuple(given)
        return Grant(pick.needs, pick.nodes, devices, self._hosts(pick.needs, pick.nodes))

    def _hosts(self, needs: Needs, nodes: Iterable[int]) -> tuple[str, ...]:
        names = self.capacity.node_names
        return tuple(names[index] for index in nodes if index < len(names)) if needs.num_nodes > 1 else ()

    def free(self, grant: Grant) -> None:
        """Take a job's share back."""
        self.running -= 1
        for index in grant.nodes:
            if grant.needs.num_nodes > 1:
                self._nodes[index] = self._whole
            else:
                free = self._nodes[index]
                self._nodes[index] = Free(
                    free.cpus + grant.needs.num_cpus,
                    free.memory_mib + grant.needs.memory_mib,
                    free.gpus + grant.needs.num_gpus,
                )
            back = {*self._devices[index], *grant.devices}
            self._devices[index] = [device for device in self.capacity.gpus if device in back]
