"""The most memory and time that a job can get: from the schedulers of its workflow, and from its runners. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torc_spool import allocation, sbatch
from torc_spool.errors import SpecError
from torc_spool.model import MIB, Needs, RunnerRecord

START_S = 30  # what an allocation is worn away by before its runner claims anything


class Ceiling(NamedTuple):
    """The most of something, and who gives it; `most` is None where that is not known or not limited."""

    most: int | None = None
    by: str = ""


class Ceilings(NamedTuple):
    """For one job: bytes on each node, and seconds."""

    memory: Ceiling = Ceiling()
    runtime: Ceiling = Ceiling()

    def gives(self, needs: Needs) -> bool:
        """Whether it is enough, as far as that is known."""
        memory = self.memory.most is None or needs.memory_mib * MIB <= self.memory.most
        return memory and (self.runtime.most is None or needs.runtime_s <= self.runtime.most)


def of_job(
    scheduler: str | None,
    schedulers: Sequence[Mapping[str, Any]],
    defaults: Mapping[str, Any],
    settings: Mapping[str, Any],
    runners: Iterable[RunnerRecord],
) -> Ceilings:
    """What a job can get that is bound to a scheduler, or (None) that any runner may claim.

    Where the workflow has no schedulers, it is what its runners have had: one that ignores resources gives any memory.
    """
    runners = list(runners)
    mine = [each for each in schedulers if scheduler is None or each["name"] == scheduler]
    if not mine:
        return Ceilings(_memory_of(runners, "the largest of the runners so far has"))
    memory, runtime = [], []
    for each in mine:
        name = str(each["name"])
        asked = _asked(each, defaults)
        memory.append(_memory(name, asked, [record for record in runners if record.scheduler == name]))
        runtime.append(_runtime(name, asked, settings))
    if scheduler is None and (others := [record for record in runners if record.scheduler is None]):
        memory.append(_memory_of(others, "the largest of the runners so far has"))
    return Ceilings(_highest(memory), _highest(runtime))


def _highest(each: Sequence[Ceiling]) -> Ceiling:
    """One that is not known may be any."""
    known = [(ceiling.most, ceiling) for ceiling in each if ceiling.most is not None]
    return max(known, key=lambda pair: pair[0])[1] if len(known) == len(each) else Ceiling()


def _asked(scheduler: Mapping[str, Any], defaults: Mapping[str, Any]) -> sbatch.Options:
    try:
        return sbatch.options(scheduler, defaults)
    except SpecError:
        return {}


def _memory(name: str, asked: sbatch.Options, runners: list[RunnerRecord]) -> Ceiling:
    memory = sbatch.memory_mib(asked.get("mem") or "")
    if not memory:  # not said, or all that the node has
        return _memory_of(runners, f"the largest runner of scheduler {name} so far has")
    return Ceiling(memory * MIB, f"scheduler {name} has")


def _memory_of(runners: Sequence[RunnerRecord], by: str) -> Ceiling:
    if any(record.max_parallel_jobs is not None or record.memory_mib is None for record in runners):
        return Ceiling()
    most = max((record.memory_mib or 0 for record in runners), default=None)
    return Ceiling() if most is None else Ceiling(most * MIB, by)


def _runtime(name: str, asked: sbatch.Options, settings: Mapping[str, Any]) -> Ceiling:
    walltime = sbatch.walltime(asked["time"] or "") if "time" in asked else None
    if walltime is None:
        return Ceiling()
    usable = walltime - allocation.margin(walltime, settings) - START_S
    return Ceiling(max(1, int(usable)), f"scheduler {name} has")
