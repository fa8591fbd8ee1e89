"""Specifications for tests, and the one sentence with which a bad one is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from torc_spool.errors import SpecError
from torc_spool.model import Job, WorkflowSpec
from torc_spool.spec import parse


def document(*jobs: dict[str, Any], **fields: Any) -> str:
    """A workflow of these jobs, or of one; a job without a command runs `true`."""
    listed = [{"command": "true"} | job for job in jobs or ({"name": "a"},)]
    return json.dumps({"name": "w", "jobs": listed} | fields)


def read(*jobs: dict[str, Any], **fields: Any) -> WorkflowSpec:
    return parse(document(*jobs, **fields), "w.json")


def only(*jobs: dict[str, Any], **fields: Any) -> Job:
    (job,) = read(*jobs, **fields).jobs
    return job


def refused(*jobs: dict[str, Any], **fields: Any) -> str:
    """The sentence, without the name of the file."""
    with pytest.raises(SpecError) as caught:
        read(*jobs, **fields)
    sentence = str(caught.value)
    assert sentence.startswith("w.json: ")
    assert "\n" not in sentence
    return sentence.removeprefix("w.json: ")


def names(spec: WorkflowSpec) -> list[str]:
    return [job.name for job in spec.jobs]


def waits(spec: WorkflowSpec) -> dict[str, list[str]]:
    """What each job waits for, by names."""
    by_id = {job.id: job.name for job in spec.jobs}
    return {job.name: [by_id[id_] for id_ in job.depends_on] for job in spec.jobs}
