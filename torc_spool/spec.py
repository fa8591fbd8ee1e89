"""From a specification to a validated workflow, or to one sentence: where it is wrong, and what to do.

`specfile` makes plain values of the text, `specread` typed records of these (`specrecords`), `specexpand` as many of
them as their parameters say; `specparts`, `specjobs` and `specactions` hold them against each other: names that must be
unique, names that must exist; `dataflow` says who waits for whom.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torc_spool import specfile
from torc_spool.complaints import check_command, check_kept, check_name, read_field, show
from torc_spool.errors import SpecError
from torc_spool.model import Job, Resources, Stdio, WorkflowSpec
from torc_spool.quantities import MAX_RUNTIME_S, parse_duration, parse_memory
from torc_spool.specactions import read_actions
from torc_spool.specexpand import Common, check_shared, with_variables
from torc_spool.specjobs import Shared, read_datasets, read_files, read_jobs, read_user_data
from torc_spool.specnotes import kept, notes, of_schedulers
from torc_spool.specparts import (
    read_env,
    read_handlers,
    read_requirements,
    read_schedulers,
    read_slurm_defaults,
    read_stdio,
)
from torc_spool.specread import read_record
from torc_spool.specrecords import JobRecord, RequirementRecord, WorkflowRecord

__all__ = ["from_commands", "load", "parse", "parse_duration", "parse_memory"]

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
        schedulers = read_schedulers([] if scheduler is None else [{"name": scheduler}])
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
    record = read_record(WorkflowRecord, with_variables(document), lambda: None)
    _check_head(record)
    common = Common(record.parameters, record.parameters_file)
    check_shared(common)
    requirements = read_requirements(record.resource_requirements)
    schedulers = read_schedulers(record.slurm_schedulers)
    handlers = read_handlers(record.failure_handlers)
    user_data = read_user_data(record.user_data, common)
    scheduler_names = {str(scheduler["name"]) for scheduler in schedulers}
    shared = Shared(
        common=common,
        files=read_files(record.files, common),
        datasets=read_datasets(record.datasets, common),
        user_data={datum.name: None for datum in user_data},
        requirements=requirements,
        schedulers=scheduler_names,
        handlers={handler.name for handler in handlers},
    )
    jobs = read_jobs(record.jobs, shared)
    actions = read_actions(record.actions, {job.name: job.id for job in jobs}, scheduler_names)
    slurm_defaults = read_slurm_defaults(record.slurm_defaults)
    return WorkflowSpec(
        name=record.name,
        jobs=jobs,
        description=record.description,
        user=record.user,
        actions=actions,
        user_data=user_data,
        project=record.project,
        metadata=record.metadata,
        env=read_env(record.env, None),
        stdio=_stdio(record),
        failure_handlers=handlers,
        schedulers=schedulers,
        slurm_defaults=slurm_defaults,
        jobs_sort_method=None if record.jobs_sort_method == "none" else record.jobs_sort_method,
        settings=kept(record),
        notes=notes(record, jobs, user_data) + of_schedulers(schedulers, slurm_defaults),
    )


def _check_head(record: WorkflowRecord) -> None:
    """The fields that no other part of the file depends on."""
    check_name(record.name, "name")
    for field in ("user", "project"):
        value = getattr(record, field)
        if value is not None:
            check_name(value, field)
    if not record.jobs:
        raise SpecError("is empty; give at least one job", where="jobs")
    for field, value in {"metadata": record.metadata, **kept(record)}.items():
        check_kept(value, field)


def _stdio(record: WorkflowRecord) -> Stdio:
    """What the file says, or what its `execution_config` does, as newer versions of Torc write it."""
    inner = (record.execution_config or {}).get("stdio")
    if record.stdio is None and inner is None:
        return Stdio()
    if record.stdio is not None and inner is not None:
        raise SpecError("is given here and in execution_config; give one of them", where="stdio")
    return read_stdio(inner if record.stdio is None else record.stdio, None if inner is None else "execution_config")


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
