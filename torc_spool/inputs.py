"""The files that jobs read and none of them writes: they must be there when the workflow is submitted."""

from __future__ import annotations

import os
from collections.abc import Iterable

from torc_spool.complaints import quote
from torc_spool.dataflow import unproduced
from torc_spool.errors import SpecError
from torc_spool.model import Job

_SHOWN = 5


def missing_inputs(jobs: Iterable[Job], cwd: str) -> dict[str, str]:
    """The paths that are not there, each with the first job that reads it. Relative ones are below `cwd`."""
    return {path: job for path, job in unproduced(jobs).items() if not os.path.exists(os.path.join(cwd, path))}


def check_inputs(jobs: Iterable[Job], cwd: str) -> None:
    """Raises SpecError with the first few that are missing, and their number."""
    missing = missing_inputs(jobs, cwd)
    if not missing:
        return
    shown = [f"{path!r} of job {quote(job)}" for path, job in list(missing.items())[:_SHOWN]]
    more = f" and {len(missing) - len(shown)} more" if len(missing) > len(shown) else ""
    verb = "files are" if len(missing) > 1 else "file is"
    raise SpecError(
        f"{len(missing)} input {verb} missing that no job produces: {', '.join(shown)}{more}; "
        "make them first, or pass --ignore-missing-data"
    )
