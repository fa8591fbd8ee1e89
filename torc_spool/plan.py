"""In which order a workflow's jobs become ready, and what that takes: pure, in time proportional to jobs and edges.

A stage is all jobs whose longest chain of dependencies has the same length: its jobs wait for none of each other,
and each waits for at least one of the stage before. Nothing makes a runner wait for a whole stage: a job is ready as
soon as those that it names itself have ended.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torc_spool.model import MIB, Action, Job, Trigger
from torc_spool.quantities import format_duration

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?")
_BEFORE, _AFTER = "before", "after"


class Group(NamedTuple):
    """Jobs of one stage, in order of id, whose names differ in nothing but their numbers."""

    jobs: tuple[Job, ...]

    def __str__(self) -> str:
        first, last = self.jobs[0].name, self.jobs[-1].name
        return first if len(self.jobs) == 1 else f"{first} … {last} ({len(self.jobs)} jobs)"


class Stage(NamedTuple):
    """Jobs in order of id, and those of earlier stages that they wait for themselves."""

    number: int  # from 1
    jobs: tuple[Job, ...]
    waits_for: tuple[Job, ...]

    @property
    def longest_runtime_s(self) -> int | None:
        """None where no job states one."""
        return max((job.resources.runtime_s for job in self.jobs if job.resources.runtime_s is not None), default=None)

    @property
    def num_cpus(self) -> int:
        return sum(job.resources.num_cpus * job.resources.num_nodes for job in self.jobs)

    @property
    def num_gpus(self) -> int:
        return sum(job.resources.num_gpus * job.resources.num_nodes for job in self.jobs)

    @property
    def memory_bytes(self) -> int:
        """What claims count: 1 MiB for a job that states none."""
        return sum((job.resources.memory_bytes or MIB) * job.resources.num_nodes for job in self.jobs)

    @property
    def schedulers(self) -> list[str | None]:
        """In order of name; None first, for jobs that any runner may claim."""
        return sorted({job.scheduler for job in self.jobs}, key=lambda name: (name is not None, name or ""))


class Firing(NamedTuple):
    """At which stage an action is performed; without one, it goes with runners and not with jobs."""

    action: Action
    stage: int | None
    when: str | None  # "before": when the stage's last job in question becomes ready; "after": when it has ended


class Plan(NamedTuple):
    """What there is to know of a workflow before it runs."""

    stages: tuple[Stage, ...]
    critical_path: tuple[Job, ...]  # the chain whose stated runtimes sum up to most; of equal ones the longest
    firings: tuple[Firing, ...]

    @property
    def num_jobs(self) -> int:
        return sum(len(stage.jobs) for stage in self.stages)

    @property
    def widest(self) -> Stage:
        """The first of those with the most jobs."""
        return max(self.stages, key=lambda stage: len(stage.jobs))

    @property
    def critical_s(self) -> int:
        return sum(job.resources.runtime_s or 0 for job in self.critical_path)

    @property
    def cpu_hours(self) -> float:
        seconds = sum(
            job.resources.num_cpus * job.resources.num_nodes * (job.resources.runtime_s or 0)
            for stage in self.stages
            for job in stage.jobs
        )
        return seconds / 3600


class Circle(ValueError):
    """Jobs wait for each other in a circle."""


def plan(jobs: Sequence[Job], actions: Iterable[Action] = ()) -> Plan:
    """The plan of these jobs; a dependency on none of them counts for nothing. Raises Circle."""
    by_id = {job.id: job for job in sorted(jobs, key=lambda job: job.id)}
    order = _order(by_id)
    levels = _levels(by_id, order)
    return Plan(
        stages=_stages(by_id, levels),
        critical_path=_critical_path(by_id, order),
        firings=tuple(_firing(action, levels) for action in actions),
    )


def groups(jobs: Iterable[Job]) -> list[Group]:
    """The jobs by what is left of their names without numbers, in the order of each group's first job."""
    found: dict[str, list[Job]] = {}
    for job in jobs:
        found.setdefault(_NUMBER.sub("\0", job.name), []).append(job)
    return [Group(tuple(members)) for members in found.values()]


def without_runtime(jobs: Iterable[Job]) -> int:
    """How many of them state none."""
    return sum(job.resources.runtime_s is None for job in jobs)


def _order(jobs: Mapping[int, Job]) -> list[int]:
    """Ids, each behind those that it waits for."""
    open_: dict[int, int] = {}
    dependents: dict[int, list[int]] = {}
    for job in jobs.values():
        awaited = _awaited(jobs, job)
        open_[job.id] = len(awaited)
        for other in awaited:
            dependents.setdefault(other, []).append(job.id)
    order = [id_ for id_, count in open_.items() if not count]
    for id_ in order:  # grows meanwhile
        for dependent in dependents.get(id_, ()):
            open_[dependent] -= 1
            if not open_[dependent]:
                order.append(dependent)
    if len(order) < len(jobs):
        raise Circle(f"{len(jobs) - len(order)} jobs wait for each other in a circle, or for such jobs")
    return order


def _awaited(jobs: Mapping[int, Job], job: Job) -> list[int]:
    return [other for other in job.depends_on if other in jobs]


def _levels(jobs: Mapping[int, Job], order: Sequence[int]) -> dict[int, int]:
    """The number of the stage of each job."""
    levels: dict[int, int] = {}
    for id_ in order:
        levels[id_] = 1 + max((levels[other] for other in _awaited(jobs, jobs[id_])), default=0)
    return levels


def _stages(jobs: Mapping[int, Job], levels: Mapping[int, int]) -> tuple[Stage, ...]:
    members: list[list[Job]] = [[] for _ in range(max(levels.values(), default=0))]
    for id_, job in jobs.items():
        members[levels[id_] - 1].append(job)
    stages = []
    for number, listed in enumerate(members, start=1):
        awaited = sorted({other for job in listed for other in _awaited(jobs, job)})
        stages.append(Stage(number, tuple(listed), tuple(jobs[other] for other in awaited)))
    return tuple(stages)


def _critical_path(jobs: Mapping[int, Job], order: Sequence[int]) -> tuple[Job, ...]:
    costs: dict[int, tuple[int, int]] = {}  # seconds and jobs of the costliest chain that ends here
    before: dict[int, int | None] = {}
    for id_ in order:
        awaited = _awaited(jobs, jobs[id_])
        best = max(awaited, key=lambda other: costs[other]) if awaited else None
        seconds, count = (0, 0) if best is None else costs[best]
        costs[id_] = (seconds + (jobs[id_].resources.runtime_s or 0), count + 1)
        before[id_] = best
    path: list[Job] = []
    at = max(order, key=lambda id_: costs[id_]) if order else None
    while at is not None:
        path.append(jobs[at])
        at = before[at]
    return tuple(reversed(path))


def _firing(action: Action, levels: Mapping[int, int]) -> Firing:
    named = max((levels[job] for job in action.jobs if job in levels), default=None)
    last = max(levels.values(), default=1)
    found: dict[Trigger, tuple[int | None, str]] = {
        Trigger.WORKFLOW_START: (1, _BEFORE),
        Trigger.WORKFLOW_COMPLETE: (last, _AFTER),
        Trigger.JOBS_READY: (named, _BEFORE),
        Trigger.JOBS_COMPLETE: (named, _AFTER),
    }
    stage, when = found.get(action.trigger, (None, None))
    return Firing(action, stage, None if stage is None else when)


def as_data(found: Plan, states: Mapping[int, str] | None = None) -> dict[str, Any]:
    """The plan as plain data; `states` says how each job stands, where that is known."""
    path = found.critical_path
    return {
        "jobs": found.num_jobs,
        "stages": [_stage_data(stage, states) for stage in found.stages],
        "widest_stage": found.widest.number if found.stages else None,
        "critical_path": {
            "jobs": [job.name for job in path],
            "runtime_s": found.critical_s,
            "runtime": format_duration(found.critical_s),
            "without_runtime": without_runtime(path),
        },
        "without_runtime": sum(without_runtime(stage.jobs) for stage in found.stages),
        "cpu_hours": round(found.cpu_hours, 4),
        "actions": [_firing_data(firing, found) for firing in found.firings],
    }


def _stage_data(stage: Stage, states: Mapping[int, str] | None) -> dict[str, Any]:
    return {
        "stage": stage.number,
        "jobs": len(stage.jobs),
        "names": [job.name for job in stage.jobs],
        "waits_for": [job.name for job in stage.waits_for],
        "num_cpus": stage.num_cpus,
        "num_gpus": stage.num_gpus,
        "memory_bytes": stage.memory_bytes,
        "longest_runtime_s": stage.longest_runtime_s,
        "without_runtime": without_runtime(stage.jobs),
        "schedulers": stage.schedulers,
        "states": None if states is None else dict(Counter(states[job.id] for job in stage.jobs)),
    }


def _firing_data(firing: Firing, found: Plan) -> dict[str, Any]:
    action = firing.action
    wanted = set(action.jobs)
    named = [job.name for stage in found.stages for job in stage.jobs if job.id in wanted] if wanted else []
    return {
        "number": action.number,
        "trigger": str(action.trigger),
        "kind": action.kind,
        "stage": firing.stage,
        "when": firing.when,
        "jobs": named,
        "commands": list(action.commands),
        "scheduler": action.scheduler,
        "num_allocations": action.num_allocations if action.kind == "schedule_nodes" else None,
    }
