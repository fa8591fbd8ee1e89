"""The jobs of a specification: their parameters, what they refer to, what they wait for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from torc_spool.complaints import check_command, check_kept, place, quote, refuse_unknown
from torc_spool.dataflow import Dataflow, Flow, with_paths
from torc_spool.errors import SpecError
from torc_spool.model import Job, Resources, Stdio, UserData
from torc_spool.specexpand import Common, expand
from torc_spool.specparts import read_env, read_stdio
from torc_spool.specread import read_record
from torc_spool.specrecords import DatasetRecord, FileRecord, JobRecord, UserDataRecord

_NO_RESOURCES = Resources()


class Shared(NamedTuple):
    """What jobs refer to by name."""

    common: Common
    files: Mapping[str, str]  # paths by name
    datasets: Mapping[str, str]  # the same
    user_data: Collection[str]
    requirements: Mapping[str, Resources]
    schedulers: Collection[str]
    handlers: Collection[str]


def read_files(items: Sequence[Any], common: Common) -> dict[str, str]:
    """The paths of all files, by name."""
    return _paths(FileRecord, items, common, "file")


def read_datasets(items: Sequence[Any], common: Common) -> dict[str, str]:
    """The paths of all datasets, by name."""
    return _paths(DatasetRecord, items, common, "dataset")


def _paths(
    cls: type[FileRecord] | type[DatasetRecord], items: Sequence[Any], common: Common, kind: str
) -> dict[str, str]:
    records = [read_record(cls, item, partial(place, kind, number, item)) for number, item in enumerate(items, start=1)]
    paths = {}
    for record in expand(records, common, kind):
        check_command(record.path, f"{kind} {quote(record.name)}: path", "path")
        paths[record.name] = record.path
    return paths


def read_user_data(items: Sequence[Any], common: Common) -> tuple[UserData, ...]:
    records = [
        read_record(UserDataRecord, item, partial(place, "user data", number, item))
        for number, item in enumerate(items, start=1)
    ]
    made = expand(records, common, "user data")
    for record in made:
        check_kept(record.data, f"user data {quote(record.name)}: data")
    return tuple(UserData(name=one.name, data=one.data, is_ephemeral=one.is_ephemeral) for one in made)


def read_jobs(items: Sequence[Any], shared: Shared) -> tuple[Job, ...]:
    """With ids from 1 in the order of the specification."""
    given = [
        read_record(JobRecord, item, partial(place, "job", number, item)) for number, item in enumerate(items, start=1)
    ]
    records = expand(given, shared.common, "job")
    flows = Dataflow(records, shared.files, shared.user_data, shared.datasets).flows()
    return tuple(_job(id_, *pair, shared) for id_, pair in enumerate(zip(records, flows, strict=True), start=1))


def _job(id_: int, record: JobRecord, flow: Flow, shared: Shared) -> Job:
    where = f"job {quote(record.name)}"
    wanted = record.resource_requirements
    if wanted is not None and wanted not in shared.requirements:
        refuse_unknown(wanted, shared.requirements, f"{where}: resource_requirements", "resource_requirements")
    handler = record.failure_handler
    if handler is not None and handler not in shared.handlers:
        refuse_unknown(handler, shared.handlers, f"{where}: failure_handler", "failure_handlers")
    script = record.invocation_script if (record.invocation_script or "").strip() else None
    if script is not None:
        script = _text(script, shared, f"{where}: invocation_script", "script")
    return Job(
        id=id_,
        name=record.name,
        command=_text(record.command, shared, f"{where}: command", "command"),
        priority=record.priority,
        scheduler=_scheduler_of(record, shared.schedulers, where),
        resources=_NO_RESOURCES if wanted is None else shared.requirements[wanted],
        depends_on=flow.depends_on,
        cancel_on_blocking_job_failure=record.cancel_on_blocking_job_failure,
        supports_termination=record.supports_termination,
        invocation_script=script,
        env=read_env(record.env, where) if record.env else {},
        stdio=_stdio(record.stdio, where),
        failure_handler=handler,
        input_files=flow.input_files,
        output_files=flow.output_files,
        input_user_data=flow.input_user_data,
        output_user_data=flow.output_user_data,
    )


def _text(text: str, shared: Shared, where: str, what: str) -> str:
    text = with_paths(with_paths(text, "files", shared.files), "datasets", shared.datasets)
    check_command(text, where, what)
    return text


def _stdio(given: Any, where: str) -> Stdio | None:
    return None if given is None else read_stdio(given, where)


def _scheduler_of(record: JobRecord, schedulers: Collection[str], where: str) -> str | None:
    one, other = record.scheduler, record.slurm_scheduler
    if one is not None and other is not None and one != other:
        raise SpecError(
            f"scheduler is {quote(one)} but slurm_scheduler is {quote(other)}; give one of them", where=where
        )
    wanted, field = (one, "scheduler") if one is not None else (other, "slurm_scheduler")
    if wanted is not None and wanted not in schedulers:
        refuse_unknown(wanted, schedulers, f"{where}: {field}", "slurm_schedulers")
    return wanted
