"""The actions of a specification, held against its jobs and schedulers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torc_spool.complaints import check_command, join_where, refuse_unknown
from torc_spool.errors import SpecError
from torc_spool.matching import Names
from torc_spool.model import Action, Trigger
from torc_spool.specread import read_record
from torc_spool.specrecords import ActionRecord

_OF_JOBS = (Trigger.JOBS_READY, Trigger.JOBS_COMPLETE)
_OF_WORKERS = (Trigger.WORKER_START, Trigger.WORKER_COMPLETE)


def read_actions(items: Sequence[Any], ids: Mapping[str, int], schedulers: Collection[str]) -> tuple[Action, ...]:
    """`ids` are the jobs', by name. Raises SpecError."""
    names = Names(ids, "jobs")
    return tuple(_action(number, item, ids, names, schedulers) for number, item in enumerate(items, start=1))


def _action(number: int, item: Any, ids: Mapping[str, int], names: Names, schedulers: Collection[str]) -> Action:
    where = f"action number {number}"
    record = read_record(ActionRecord, item, lambda: where)
    trigger = Trigger(record.trigger_type)
    if record.action_type == "run_commands":
        _check_commands(record, where)
    else:
        _check_scheduler(record, schedulers, where)
    return Action(
        number=number,
        trigger=trigger,
        kind=record.action_type,
        jobs=_jobs(record, trigger, ids, names, where),
        commands=tuple(record.commands),
        scheduler=record.scheduler,
        num_allocations=record.num_allocations,
        start_one_worker_per_node=record.start_one_worker_per_node,
        max_parallel_jobs=record.max_parallel_jobs,
        persistent=record.persistent or trigger in _OF_WORKERS,
    )


def _check_commands(record: ActionRecord, where: str) -> None:
    if not record.commands:
        raise SpecError("is missing; run_commands needs at least one", where=join_where(where, "commands"))
    for index, command in enumerate(record.commands, start=1):
        check_command(command, f"{where}: commands: number {index}")


def _check_scheduler(record: ActionRecord, schedulers: Collection[str], where: str) -> None:
    if record.scheduler is None:
        raise SpecError(
            "is missing; schedule_nodes needs one of the slurm_schedulers", where=join_where(where, "scheduler")
        )
    if record.scheduler not in schedulers:
        refuse_unknown(record.scheduler, schedulers, join_where(where, "scheduler"), "slurm_schedulers")
    if record.commands:
        raise SpecError("is only for run_commands; remove it", where=join_where(where, "commands"))


def _jobs(record: ActionRecord, trigger: Trigger, ids: Mapping[str, int], names: Names, where: str) -> tuple[int, ...]:
    """The ids of the jobs that it is about, in order."""
    given = [field for field in ("jobs", "job_name_regexes") if getattr(record, field)]
    if trigger not in _OF_JOBS:
        if given:
            raise SpecError(
                f"{trigger} is not about single jobs; remove it, or take {' or '.join(_OF_JOBS)}",
                where=join_where(where, given[0]),
            )
        return ()
    if not given:
        raise SpecError(f"{trigger} needs jobs or job_name_regexes: of which jobs", where=where)
    found: dict[int, None] = {}
    for name in record.jobs:
        if name not in ids:
            refuse_unknown(name, ids, join_where(where, "jobs"), "jobs")
        found[ids[name]] = None
    for pattern in record.job_name_regexes:
        found.update((ids[name], None) for name in names.found(pattern, join_where(where, "job_name_regexes")))
    return tuple(sorted(found))
