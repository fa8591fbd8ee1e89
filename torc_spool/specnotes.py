"""What a specification says and this program does not act on: one note for each field, for whoever submits it.

A field that is acted on from now on loses its line here, and its row in docs/spec.md's "Read but not acted on".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torc_spool import sbatch
from torc_spool.errors import SpecError
from torc_spool.model import Job, UserData
from torc_spool.specactions import OF_JOBS
from torc_spool.specrecords import WorkflowRecord

USED = (  # settings, by runners
    "compute_node_expiration_buffer_seconds",
    "compute_node_wait_for_new_jobs_seconds",
    "max_runner_deaths",
)
KEPT = {  # fields of the file that go into the workflow's settings as they are given
    "execution_config": "only its stdio is used",
    "resource_monitor": "runners record each attempt's time, cpu time and peak memory, and nothing more",
    "use_pending_failed": "a job that fails has failed; retry runs it again",
    "dynamic_jobs": "no job can add jobs to a workflow that was submitted",
    "compute_node_min_time_for_new_jobs_seconds": "a job is claimed when its runtime fits in the time left",
    "compute_node_ignore_workflow_completion": "give run --wait-for-new-jobs",
    "compute_node_wait_for_healthy_database_minutes": "there is no database to wait for",
    "enable_ro_crate": "no provenance file is written",
    "access_groups": "who may do what is for the permissions of the spool's directory to say",
}
_OF_JOBS = {
    "termination_signal": "every job that has to end gets SIGTERM and then its grace",
}
_OF_FILES = {
    "identifier": "no provenance file is written",
    "st_mtime": "runners note the size and time of a job's inputs when it starts",
}
_OF_DATASETS = {
    "hash_mode": "a dataset has changed when its directory is gone or has another time; no sum is made of it",
}
_OF_NODES = ("scheduler", "scheduler_type", "num_allocations", "start_one_worker_per_node", "max_parallel_jobs")


def kept(record: WorkflowRecord) -> dict[str, Any]:
    """The settings: what is stored with the workflow as it is given."""
    return {field: value for field in (*USED, *KEPT) if (value := getattr(record, field)) is not None}


def notes(
    record: WorkflowRecord,
    jobs: Sequence[Job],
    user_data: Iterable[UserData],
) -> tuple[str, ...]:
    """One for each field that is given, in the order of the records' fields."""
    said = [
        f"{field}: {why}"
        for field, why in KEPT.items()
        if getattr(record, field) is not None and not _is_stdio_alone(field, record)
    ]
    said += _of_items(record.jobs, _OF_JOBS)
    said += _of_items(record.files, _OF_FILES)
    said += _of_items(record.datasets, _OF_DATASETS)
    if any(datum.is_ephemeral for datum in user_data):
        said.append("is_ephemeral: all user data stays until the workflow is deleted")
    if any(name.startswith("TORC_") for env in (record.env, *(job.env for job in jobs)) for name in env):
        said.append("env: of the variables that begin with TORC_, those that the runner sets keep its values")
    if any(
        item.get("trigger_type") not in OF_JOBS and (item.get("jobs") or item.get("job_name_regexes"))
        for item in record.actions
    ):
        said.append(f"actions: only {' and '.join(OF_JOBS)} are about jobs; the jobs of others are not looked at")
    if any(
        item.get("action_type") == "run_commands" and any(item.get(field) is not None for field in _OF_NODES)
        for item in record.actions
    ):
        said.append("actions: only schedule_nodes is about allocations; what run_commands says of them is left out")
    return tuple(said)


def of_schedulers(schedulers: Iterable[Mapping[str, Any]], defaults: Mapping[str, Any]) -> tuple[str, ...]:
    """Those for which no allocation can be asked: their jobs need none where a person starts the runners."""
    said = []
    for scheduler in schedulers:
        try:
            sbatch.options(scheduler, defaults)
        except SpecError as error:
            said.append(f"{error}; no allocation can be asked for as it stands")
    return tuple(dict.fromkeys(said))


def _is_stdio_alone(field: str, record: WorkflowRecord) -> bool:
    return field == "execution_config" and set(record.execution_config or ()) <= {"stdio"}


def _of_items(items: Sequence[dict[str, Any]], fields: dict[str, str]) -> list[str]:
    return [f"{field}: {why}" for field, why in fields.items() if any(item.get(field) is not None for item in items)]
