"""From a specification to a validated workflow, or to one sentence: where it is wrong, and what to do.

`specfile` makes plain values of the text, `specrecords` typed records of these; here they are held against
each other: names that must be unique, names that must exist, jobs that must not wait in a circle.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

from torc_spool import specfile
from torc_spool.errors import SpecError
from torc_spool.graph import cycle
from torc_spool.model import Job, Resources, WorkflowSpec
from torc_spool.naming import ANY_SCHEDULER, slugify
from torc_spool.quantities import MAX_RUNTIME_S, parse_duration, parse_memory
from torc_spool.specrecords import (
    MAX_KEPT_DEPTH,
    JobRecord,
    RequirementRecord,
    SchedulerRecord,
    WorkflowRecord,
    check_command,
    check_kept,
    check_name,
    did_you_mean,
    join_where,
    quote,
    read_field,
    read_record,
    show,
)

__all__ = ["from_commands", "load", "parse", "parse_duration", "parse_memory"]

_CYCLE_SHOWN = 20
_NO_RESOURCES = Resources()


def load(path: str) -> tuple[WorkflowSpec, bytes]:
    """The workflow that a file specifies (`-` is standard input), and the file's bytes as they are."""
    content = specfile.read_bytes(path)
    return parse(content, specfile.source_name(path)), content


def parse(text: str | bytes, source: str) -> WorkflowSpec:
    """The workflow that a YAML or JSON text specifies; `source` is what messages call it."""
    with _complaints_name(source):
        return _workflow(specfile.read_document(text, source))


def from_commands(
    lines: Iterable[str],
    *,
    name: str,
    resources: Resources = _NO_RESOURCES,
    priority: int = 0,
    scheduler: str | None = None,
    source: str,
) -> WorkflowSpec:
    """A workflow of one job a line, all alike; blank lines and lines that start with # are skipped."""
    with _complaints_name(source):
        check_name(name, "name")
        _check_shared(resources, priority)
        if scheduler is not None:
            check_name(scheduler, "scheduler")
        schedulers = _schedulers([] if scheduler is None else [{"name": scheduler}])
        jobs = tuple(
            Job(
                id=number,
                name=f"job_{number:06d}",
                command=command,
                priority=priority,
                scheduler=scheduler,
                resources=resources,
            )
            for number, command in enumerate(_commands(lines), start=1)
        )
        if not jobs:
            raise SpecError("holds no command; write one command a line")
        return WorkflowSpec(name=name, jobs=jobs, schedulers=schedulers)


@contextmanager
def _complaints_name(source: str) -> Iterator[None]:
    """Adds the source to every complaint that does not name one yet."""
    try:
        yield
    except SpecError as error:
        if error.source is not None:
            raise
        raise SpecError(error.message, source=source, where=error.where) from error.__cause__


def _commands(lines: Iterable[str]) -> Iterator[str]:
    try:
        for number, line in enumerate(lines, start=1):
            command = line.rstrip("\r\n")
            if number == 1:
                command = command.removeprefix("\ufeff")
            if command.strip() and not command.lstrip().startswith("#"):
                check_command(command, f"line {number}")
                yield command
    except UnicodeDecodeError as error:
        raise SpecError("is not UTF-8 text; save it as UTF-8") from error


def _workflow(document: Any) -> WorkflowSpec:
    if document is None:
        raise SpecError("is empty; a workflow has at least a name and jobs")
    record = read_record(WorkflowRecord, document, lambda: None)
    check_name(record.name, "name")
    if record.user is not None:
        check_name(record.user, "user")
    if not record.jobs:
        raise SpecError("is empty; give at least one job", where="jobs")
    requirements = _requirements(record.resource_requirements)
    schedulers = _schedulers(record.slurm_schedulers)
    return WorkflowSpec(
        name=record.name,
        jobs=_jobs(record.jobs, requirements, {str(scheduler["name"]) for scheduler in schedulers}),
        description=record.description,
        user=record.user,
        schedulers=schedulers,
    )


def _requirements(items: Sequence[Any]) -> dict[str, Resources]:
    kind = "resource requirement"
    records = [
        read_record(RequirementRecord, item, partial(_place, kind, number, item))
        for number, item in enumerate(items, start=1)
    ]
    _numbers([record.name for record in records], kind)
    return {record.name: _resources(record, f"{kind} {quote(record.name)}") for record in records}


def _resources(record: RequirementRecord, where: str) -> Resources:
    memory, runtime = record.memory, record.runtime
    return Resources(
        num_cpus=record.num_cpus,
        num_gpus=record.num_gpus,
        num_nodes=record.num_nodes,
        memory_bytes=None if memory is None else read_field(where, "memory", parse_memory, memory),
        runtime_s=None if runtime is None else read_field(where, "runtime", parse_duration, runtime),
    )


def _schedulers(items: Sequence[Any]) -> tuple[dict[str, Any], ...]:
    """Each scheduler's fields as they were given, except that null is nothing."""
    schedulers = tuple(_scheduler(number, item) for number, item in enumerate(items, start=1))
    names = [str(scheduler["name"]) for scheduler in schedulers]
    _numbers(names, "scheduler")
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
    place = partial(_place, "scheduler", number, item)
    name = read_record(SchedulerRecord, {"name": item.get("name")} if isinstance(item, dict) else item, place).name
    check_name(name, join_where(place(), "name"))
    if slugify(name) == ANY_SCHEDULER:
        raise SpecError("this name means every runner; choose another", where=join_where(place(), "name"))
    given = {key: value for key, value in item.items() if value is not None}
    for key, value in given.items():
        check_kept(value, join_where(place(), quote(key)), MAX_KEPT_DEPTH)
    return given


def _jobs(items: Sequence[Any], requirements: Mapping[str, Resources], schedulers: Collection[str]) -> tuple[Job, ...]:
    records = [
        read_record(JobRecord, item, partial(_place, "job", number, item)) for number, item in enumerate(items, start=1)
    ]
    ids = _numbers([record.name for record in records], "job")
    jobs = tuple(_job(id_, record, ids, requirements, schedulers) for id_, record in enumerate(records, start=1))
    _refuse_cycle(jobs)
    return jobs


def _job(
    id_: int,
    record: JobRecord,
    ids: Mapping[str, int],
    requirements: Mapping[str, Resources],
    schedulers: Collection[str],
) -> Job:
    where = f"job {quote(record.name)}"
    check_command(record.command, f"{where}: command")
    wanted = record.resource_requirements
    if wanted is not None and wanted not in requirements:
        _refuse_unknown(wanted, requirements, "resource_requirements", where, "resource_requirements")
    return Job(
        id=id_,
        name=record.name,
        command=record.command,
        priority=record.priority,
        scheduler=_scheduler_of(record, schedulers, where),
        resources=_NO_RESOURCES if wanted is None else requirements[wanted],
        depends_on=_dependencies(id_, record.depends_on, ids, where) if record.depends_on else (),
        cancel_on_blocking_job_failure=record.cancel_on_blocking_job_failure,
        supports_termination=record.supports_termination,
    )


def _scheduler_of(record: JobRecord, schedulers: Collection[str], where: str) -> str | None:
    one, other = record.scheduler, record.slurm_scheduler
    if one is not None and other is not None and one != other:
        raise SpecError(
            f"scheduler is {quote(one)} but slurm_scheduler is {quote(other)}; give one of them", where=where
        )
    wanted, field = (one, "scheduler") if one is not None else (other, "slurm_scheduler")
    if wanted is not None and wanted not in schedulers:
        _refuse_unknown(wanted, schedulers, field, where, "slurm_schedulers")
    return wanted


def _dependencies(id_: int, names: Sequence[str], ids: Mapping[str, int], where: str) -> tuple[int, ...]:
    """Ids in the order given, each once."""
    wanted = dict.fromkeys(names)
    for name in wanted:
        if name not in ids:
            _refuse_unknown(name, ids, "depends_on", where, "jobs")
    found = tuple(ids[name] for name in wanted)
    if id_ in found:
        raise SpecError("it depends on itself; remove it from its own list", where=f"{where}: depends_on")
    return found


def _refuse_unknown(name: str, known: Collection[str], field: str, where: str, section: str) -> NoReturn:
    hint = did_you_mean(name, known) or f"; define it under {section}, or correct the name"
    raise SpecError(f"there is no {quote(name)} among the {section}{hint}", where=f"{where}: {field}")


def _refuse_cycle(jobs: Sequence[Job]) -> None:
    members = cycle({job.id: job.depends_on for job in jobs})
    if members is None:
        return
    names = [jobs[id_ - 1].name for id_ in members]
    if len(names) > _CYCLE_SHOWN:
        half = _CYCLE_SHOWN // 2
        names = [*names[:half], f"... {len(names) - 2 * half} more ...", *names[-half:]]
    raise SpecError(
        f"jobs wait for each other in a circle: {' -> '.join(names)} (each depends on the next); "
        "remove one of these dependencies",
        where="jobs",
    )


def _numbers(names: Sequence[str], kind: str) -> dict[str, int]:
    """The number, from 1, of each name; all are checked, and none may be there twice."""
    numbers: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        first = numbers.setdefault(name, number)
        if first != number:
            raise SpecError(
                f"{quote(name)} is the name of {kind} number {first} too; give each a name of its own",
                where=f"{kind} number {number}: name",
            )
        check_name(name, f"{kind} number {number}: name")
    return numbers


def _place(kind: str, number: int, item: Any) -> str:
    """By its name where it has one, else by its number."""
    name = item.get("name") if isinstance(item, dict) else None
    return f"{kind} {quote(name)}" if name and isinstance(name, str) else f"{kind} number {number}"


def _check_shared(resources: Resources, priority: int) -> None:
    """What is given for all commands keeps to the limits of a specification's fields."""
    read_record(JobRecord, {"name": "-", "command": "-", "priority": priority}, lambda: None)
    counts = {
        "num_cpus": resources.num_cpus,
        "num_gpus": resources.num_gpus,
        "num_nodes": resources.num_nodes,
    }
    read_record(RequirementRecord, {"name": "-", **counts}, lambda: None)
    if resources.memory_bytes is not None:
        read_field(None, "memory", parse_memory, resources.memory_bytes)
    if resources.runtime_s is not None and not 0 < resources.runtime_s <= MAX_RUNTIME_S:
        raise SpecError(f"must be from 1 second to ten years, got {show(resources.runtime_s)}", where="runtime")
