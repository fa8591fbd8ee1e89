"""A specification with the schedulers and actions of its plan written in: plain values in, plain values out."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import yaml

from torc_spool import slurmplan, spec
from torc_spool.complaints import place, quote
from torc_spool.errors import SpecError
from torc_spool.model import WorkflowSpec
from torc_spool.plan import plan as stages_of
from torc_spool.quantities import format_duration
from torc_spool.siteprofile import Partition
from torc_spool.slurmplan import Group, Stage, Terms, Wanted, slurm_time
from torc_spool.specexpand import Common, expand, with_variables
from torc_spool.specfile import read_document
from torc_spool.specread import read_record
from torc_spool.specrecords import JobRecord

_LEAD_S = 30  # beside the margin that a specification asks for
_TEMPLATE = re.compile(r"\{[^{}]*\}")


class Generated(NamedTuple):
    """A planned specification."""

    document: dict[str, Any]
    text: str  # the document as YAML
    spec: WorkflowSpec  # and as it is read again
    groups: tuple[Group, ...]


class _Item(NamedTuple):
    """An item of `jobs`, and the jobs that it stands for."""

    given: dict[str, Any]
    jobs: tuple[Wanted, ...]


def generate(
    content: bytes,
    source: str,
    partitions: Sequence[Partition],
    terms: Terms = slurmplan.USUAL,
    *,
    account: str | None = None,
    overwrite: bool = False,
) -> Generated:
    """`overwrite` replaces schedulers, schedule_nodes actions, and jobs' schedulers. Raises SpecError, UsageError."""
    parsed = spec.parse(content, source)
    document: dict[str, Any] = copy.deepcopy(with_variables(read_document(content, source)))
    try:
        _clear(document, overwrite=overwrite)
        room_s = max(terms.room_s, (document.get("compute_node_expiration_buffer_seconds") or 0) + _LEAD_S)
        items = _items(document, parsed)
        groups = slurmplan.plan((job for item in items for job in item.jobs), partitions, terms._replace(room_s=room_s))
        _bind(items, groups)
    except SpecError as error:
        raise SpecError(error.message, source=error.source or source, where=error.where) from error
    document["slurm_schedulers"] = [_scheduler(group, account) for group in groups]
    document["actions"] = [*document.pop("actions"), *_actions(items, groups)]
    text = _dump(document)
    return Generated(document, text, spec.parse(text, source), groups)


def rows(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """What is asked for, and when: a row for each action, in order of stages."""
    found = [
        {
            "scheduler": group.name,
            "partition": group.partition.name,
            "jobs": len(stage.jobs),
            "at_once_per_node": group.at_once,
            "nodes": group.nodes,
            "allocations": stage.num_allocations,
            "walltime": slurm_time(group.walltime_s),
            "stage": stage.number,
            "trigger": "on_workflow_start" if stage.number == 1 else "on_jobs_ready",
        }
        for group in groups
        for stage in group.stages
    ]
    return sorted(found, key=lambda row: row["stage"])


def notes(groups: Sequence[Group]) -> list[str]:
    """What a person should know of the plan."""
    said = [
        f"{group.without_runtime} of {group.num_jobs} jobs of {group.name} state no runtime: its walltime is at least "
        f"{_usual(group.partition)}, cut to the partition's limit"
        for group in groups
        if group.without_runtime
    ]
    return said + [note for group in groups for stage in group.stages if (note := _of_number(group, stage)) is not None]


def _of_number(group: Group, stage: Stage) -> str | None:
    """Where the nodes that are asked for are too few for all jobs, or more than there are."""
    allocations = stage.num_allocations
    time_for = allocations * group.at_once * group.waves * (group.nodes if group.one_runner_per_node else 1)
    where = f"stage {stage.number} of {group.name}"
    longer = f"--walltime-strategy {slurmplan.BY_LIMIT} or a greater --walltime-multiplier"
    if time_for < len(stage.jobs):
        return (
            f"{where}: what is asked for has time for {time_for} of its {len(stage.jobs)} jobs, should each take the "
            f"longest of their runtimes; {longer} gives more time, and slurm schedule-nodes more allocations later"
        )
    has = group.partition.num_nodes
    if has is not None and allocations > 1 and allocations * group.nodes > has:
        return (
            f"{where}: {allocations} allocations, and {group.partition.name} has {has} node{'s' * (has > 1)}: some "
            f"wait for their turn; {longer} asks for fewer"
        )
    return None


def _usual(partition: Partition) -> str:
    if partition.default_walltime_s:
        return f"the partition's default of {format_duration(partition.default_walltime_s)}"
    return format_duration(slurmplan.DEFAULT_WALLTIME_S)


def _clear(document: dict[str, Any], *, overwrite: bool) -> None:
    """Take out what is to be generated. Raises SpecError for it where it may not be overwritten."""
    actions = document.get("actions") or []
    asking = [action for action in actions if action.get("action_type") == "schedule_nodes"]
    if not overwrite:
        for field, found in (("slurm_schedulers", document.get("slurm_schedulers")), ("actions", asking)):
            if found:
                what = "schedule_nodes is there" if field == "actions" else "some are there"
                raise SpecError(
                    f"{what} already: submit the workflow as it is, or pass --overwrite to replace them", where=field
                )
    document["actions"] = [action for action in actions if action not in asking]
    for item in document["jobs"]:
        item.pop("scheduler", None)
        item.pop("slurm_scheduler", None)


def _items(document: dict[str, Any], parsed: WorkflowSpec) -> list[_Item]:
    stage_of = {job.id: stage.number for stage in stages_of(parsed.jobs).stages for job in stage.jobs}
    jobs = iter(parsed.jobs)
    common = Common(document.get("parameters") or {}, document.get("parameters_file"))
    items = []
    for number, given in enumerate(document["jobs"], start=1):
        record = read_record(JobRecord, given, partial(place, "job", number, given))
        wanted = []
        for one in expand([record], common, "job"):
            job = next(jobs)
            wanted.append(Wanted(job.id, job.name, one.resource_requirements, job.resources, stage_of[job.id]))
        items.append(_Item(given, tuple(wanted)))
    return items


def _bind(items: Sequence[_Item], groups: Sequence[Group]) -> None:
    """Write the scheduler of each job into its item. Raises SpecError for one whose jobs need several."""
    scheduler_of = _schedulers(groups)
    for item in items:
        names = dict.fromkeys(scheduler_of[job.id] for job in item.jobs)
        if len(names) == 1:
            item.given["scheduler"] = next(iter(names))
            continue
        if any(scheduler_of[job.id] != f"{job.requirement}_scheduler" for job in item.jobs):
            raise SpecError(
                f"its parameters make jobs for {len(names)} schedulers ({', '.join(list(names)[:3])} ...), which one "
                f"item cannot name; split it, or group by {slurmplan.BY_REQUIREMENT}",
                where=f"job {quote(str(item.given.get('name')))}",
            )
        item.given["scheduler"] = f"{item.given['resource_requirements']}_scheduler"


def _schedulers(groups: Sequence[Group]) -> dict[int, str]:
    return {job.id: group.name for group in groups for stage in group.stages for job in stage.jobs}


def _scheduler(group: Group, account: str | None) -> dict[str, Any]:
    asked: dict[str, Any] = {"name": group.name}
    if account is not None:
        asked["account"] = account
    asked |= {
        "partition": group.partition.name,
        "nodes": group.nodes,
        "walltime": slurm_time(group.walltime_s),
        "ntasks_per_node": 1,
        "cpus_per_task": group.num_cpus,
    }
    if group.memory_mib is not None:
        asked["mem"] = f"{group.memory_mib}M"
    if group.num_gpus:
        asked["gres"] = f"gpu:{group.num_gpus}"
    return asked


def _actions(items: Sequence[_Item], groups: Sequence[Group]) -> list[dict[str, Any]]:
    names = [job.name for item in items for job in item.jobs]
    made = []
    for group in groups:
        for stage in group.stages:
            action: dict[str, Any] = {"trigger_type": "on_workflow_start", "action_type": "schedule_nodes"}
            if stage.number > 1:
                action["trigger_type"] = "on_jobs_ready"
                action |= _named(items, {job.name for job in stage.jobs}, names)
            action |= {"scheduler": group.name, "scheduler_type": "slurm", "num_allocations": stage.num_allocations}
            if group.one_runner_per_node:
                action["start_one_worker_per_node"] = True
            made.append((stage.number, action))
    return [action for _, action in sorted(made, key=lambda pair: pair[0])]


def _named(items: Sequence[_Item], wanted: set[str], names: Sequence[str]) -> dict[str, list[str]]:
    """The jobs of an action: by a regular expression where an item stands for many and it finds no others."""
    listed: list[str] = []
    patterns: list[str] = []
    for item in items:
        own = [job.name for job in item.jobs]
        here = [name for name in own if name in wanted]
        pattern = _pattern(str(item.given["name"])) if len(own) > 1 and here == own else None
        if pattern is not None:
            found = {name for name in names if re.search(pattern, name)}
            if set(own) <= found <= wanted:
                patterns.append(pattern)
                continue
        listed += here
    return {field: value for field, value in (("jobs", listed), ("job_name_regexes", patterns)) if value}


def _pattern(template: str) -> str:
    return f"^{'.+'.join(re.escape(part) for part in _TEMPLATE.split(template))}$"


class _Dumper(yaml.SafeDumper):
    """Without anchors: what is said twice is written twice."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _dump(document: Mapping[str, Any]) -> str:
    return yaml.dump(dict(document), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
