"""What a specification comes to, as data."""

from __future__ import annotations

from typing import Any

from torc_spool.dataflow import unproduced
from torc_spool.model import WorkflowSpec


def summary(spec: WorkflowSpec) -> dict[str, Any]:
    """Counts and names: `input_files` are those that no job produces."""
    return {
        "name": spec.name,
        "jobs": len(spec.jobs),
        "dependencies": sum(len(job.depends_on) for job in spec.jobs),
        "input_files": len(unproduced(spec.jobs)),
        "output_files": sum(len(job.output_files) for job in spec.jobs),
        "user_data": [datum.name for datum in spec.user_data],
        "schedulers": [str(scheduler["name"]) for scheduler in spec.schedulers],
        "failure_handlers": [handler.name for handler in spec.failure_handlers],
        "actions": [f"{action.trigger}: {action.kind}" for action in spec.actions],
        "notes": list(spec.notes),
    }
