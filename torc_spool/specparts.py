"""What jobs refer to and share: requirements, schedulers, failure handlers, environments, stdio."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torc_spool.complaints import (
    check_command,
    check_kept,
    check_name,
    check_unique,
    join_where,
    place,
    quote,
    read_field,
    show,
)
from torc_spool.errors import SpecError
from torc_spool.model import FailureHandler, Resources, Rule, Stdio, StdioMode
from torc_spool.naming import ANY_SCHEDULER, slugify
from torc_spool.quantities import parse_duration, parse_memory
from torc_spool.specread import read_record
from torc_spool.specrecords import HandlerRecord, RequirementRecord, RuleRecord, SchedulerRecord, StdioRecord

MANAGED_BY_SCHEDULERS = ("partition", "nodes", "walltime", "time", "mem", "gres", "name", "job-name")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def read_requirements(items: Sequence[Any]) -> dict[str, Resources]:
    kind = "resource requirement"
    records = [
        read_record(RequirementRecord, item, partial(place, kind, number, item))
        for number, item in enumerate(items, start=1)
    ]
    check_unique((record.name for record in records), kind)
    return {record.name: _resources(record) for record in records}


def _resources(record: RequirementRecord) -> Resources:
    where = f"resource requirement {quote(record.name)}"
    memory, runtime = record.memory, record.runtime
    return Resources(
        num_cpus=record.num_cpus,
        num_gpus=record.num_gpus,
        num_nodes=record.num_nodes,
        memory_bytes=None if memory is None else read_field(where, "memory", parse_memory, memory),
        runtime_s=None if runtime is None else read_field(where, "runtime", parse_duration, runtime),
    )


def read_schedulers(items: Sequence[Any]) -> tuple[dict[str, Any], ...]:
    """Each scheduler's fields as they were given, except that null is nothing and that each has a name."""
    schedulers = tuple(_scheduler(number, item) for number, item in enumerate(items, start=1))
    names = [str(scheduler["name"]) for scheduler in schedulers]
    check_unique(names, "scheduler")
    taken: dict[str, str] = {}
    for name in names:
        other = taken.setdefault(slugify(name), name)
        if other != name:
            raise SpecError(
                f"its directory {quote(slugify(name))} would be that of {quote(other)} too; rename one",
                where=f"scheduler {quote(name)}",
            )
    return schedulers


def _scheduler(number: int, item: Any) -> dict[str, Any]:
    where = partial(place, "scheduler", number, item)
    said = read_record(SchedulerRecord, {"name": item.get("name")} if isinstance(item, dict) else item, where).name
    name = f"scheduler_{number}" if said is None else said
    check_name(name, join_where(where(), "name"))
    if slugify(name) == ANY_SCHEDULER:
        raise SpecError("this name means every runner; choose another", where=join_where(where(), "name"))
    given = {key: value for key, value in item.items() if value is not None}
    for key, value in given.items():
        check_kept(value, join_where(where(), quote(key)))
    return {"name": name} | given


def read_slurm_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of sbatch for all schedulers, without what each scheduler says itself."""
    kept = {key: value for key, value in given.items() if value is not None}
    for key, value in kept.items():
        where = f"slurm_defaults: {quote(key)}"
        if key.lstrip("-").replace("_", "-").lower() in MANAGED_BY_SCHEDULERS:
            raise SpecError("belongs to each scheduler; give it under slurm_schedulers", where=where)
        if isinstance(value, list | dict):
            raise SpecError(f"must be text, a number or a truth value, got {show(value)}", where=where)
        check_kept(value, where)
    return kept


def read_handlers(items: Sequence[Any]) -> tuple[FailureHandler, ...]:
    kind = "failure handler"
    records = [
        read_record(HandlerRecord, item, partial(place, kind, number, item))
        for number, item in enumerate(items, start=1)
    ]
    check_unique((record.name for record in records), kind)
    return tuple(FailureHandler(name=record.name, rules=_rules(record)) for record in records)


def _rules(record: HandlerRecord) -> tuple[Rule, ...]:
    where = f"failure handler {quote(record.name)}"
    if not record.rules:
        raise SpecError("is empty; give at least one rule", where=f"{where}: rules")
    return tuple(_rule(f"{where}: rule number {number}", item) for number, item in enumerate(record.rules, start=1))


def _rule(where: str, item: Any) -> Rule:
    record = read_record(RuleRecord, item, lambda: where)
    if not record.exit_codes and not record.match_all_exit_codes:
        raise SpecError("must say when it holds; give exit_codes, or match_all_exit_codes: true", where=where)
    if record.recovery_script is not None:
        check_command(record.recovery_script, f"{where}: recovery_script")
    return Rule(
        exit_codes=tuple(record.exit_codes),
        match_all_exit_codes=record.match_all_exit_codes,
        recovery_script=record.recovery_script,
        max_retries=record.max_retries,
    )


def read_env(given: Mapping[str, Any], where: str | None) -> dict[str, str]:
    """Variables and their text; a whole number is taken as the text that it is, a fraction may have lost digits."""
    return {name: _value(name, value, where) for name, value in given.items() if value is not None}


def _value(name: str, value: Any, where: str | None) -> str:
    at = join_where(where, "env", quote(name))
    if not _VARIABLE.fullmatch(name):
        raise SpecError(
            "is not the name of a variable; use letters, digits and _, and do not begin with a digit", where=at
        )
    if isinstance(value, int) and not isinstance(value, bool):
        check_kept(value, at)
        value = str(value)
    if not isinstance(value, str):
        hint = "; put it in quotes" if isinstance(value, bool | float) else ""
        raise SpecError(f"must be text, got {show(value)}{hint}", where=at)
    if value:
        check_command(f"_{value}", at, "value")
    return value


def read_stdio(given: Any, where: str | None) -> Stdio:
    """A mode, or a mapping of what becomes of a job's output."""
    item = {"mode": given} if isinstance(given, str) else given
    record = read_record(StdioRecord, item, lambda: join_where(where, "stdio"))
    return Stdio(mode=StdioMode(record.mode), delete_on_success=record.delete_on_success)
