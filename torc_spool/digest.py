"""A short sum of what defines a run, so that a change of it can be told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from torc_spool.model import Job

_DIGITS = 16


def digest(job: Job, workflow_env: Mapping[str, str]) -> str:
    """Of a job's command, its invocation script, and the variables that it is given; the order of these is nothing."""
    defines = [job.command, job.invocation_script, sorted({**workflow_env, **job.env}.items())]
    return hashlib.sha256(json.dumps(defines).encode()).hexdigest()[:_DIGITS]
