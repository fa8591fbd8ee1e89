"""A workflow's directory for tests, laid out as the format document says, without a submit."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from torc_spool import fsops, naming
from torc_spool.contents import encode
from torc_spool.model import OUTCOMES, Job, Resources
from torc_spool.naming import Cause, JobName
from torc_spool.store import Place, Store

OWNER = "host-1-0123abcd"
TAKER = "host-2-89abcdef"
DIRECTORIES = (
    "blocked",
    "ready/any",
    "pending",
    "running",
    "done/completed",
    "done/failed",
    "done/canceled",
    "done/terminated",
    "held",
    "aside",
    "requests",
    "runners",
    "output",
)


def job(number: int, *after: int, name: str = "", anyway: bool = False, **fields: Any) -> Job:
    """A job that waits for others."""
    resources = Resources(**fields.pop("resources", {}))
    return Job(
        id=number,
        name=name or f"job{number}",
        command="true",
        depends_on=after,
        cancel_on_blocking_job_failure=not anyway,
        resources=resources,
        **fields,
    )


class Tree:
    """A workflow on the disk. `where` tells it in short: id to `directory attempt[~cause.attempt]`."""

    def __init__(self, root: str, jobs: Iterable[Job], *, schedulers: Iterable[str] = (), **workflow: Any) -> None:
        self.root = root
        self.jobs = {each.id: each for each in jobs}
        schedulers = tuple(schedulers)
        ready = (f"ready/{naming.scheduler_directory(scheduler)}" for scheduler in schedulers)
        for directory in (*DIRECTORIES, *ready):
            os.makedirs(f"{root}/{directory}", mode=0o755)
        os.chmod(os.path.dirname(root), 0o755)
        os.makedirs(f"{os.path.dirname(root)}/.ids/1", exist_ok=True)
        self.write("lock", b"")
        self.write(
            "jobs.jsonl", b"".join(encode(msgspec.structs.replace(each, attempts=())) for each in self.jobs.values())
        )
        record = {
            "id": 1,
            "name": "test",
            "num_jobs": len(self.jobs),
            "num_edges": sum(len(each.depends_on) for each in self.jobs.values()),
            "cwd": "/",
            "schedulers": [{"name": scheduler} for scheduler in schedulers],
        }
        self.write("workflow.json", json.dumps(record | workflow).encode())
        for each in self.jobs.values():
            self.write(f"{home(each)}/{first_name(each)}", encode(each))

    def write(self, path: str, data: bytes) -> str:
        with open(f"{self.root}/{path}", "wb") as file:
            file.write(data)
        return f"{self.root}/{path}"

    def store(self, *, allow_shared: bool = False) -> Store:
        return Store.open(self.root, allow_shared=allow_shared)

    def files(self) -> list[tuple[str, str]]:
        """(directory, name) of every job's file."""
        return [
            (os.path.relpath(directory, self.root), name)
            for directory, _, names in os.walk(self.root)
            for name in names
            if naming.job_id(name) is not None
        ]

    def path_of(self, number: int) -> str:
        """Of the one file of a job."""
        ((directory, name),) = [each for each in self.files() if naming.parse_job(each[1]).id == number]
        return f"{self.root}/{directory}/{name}"

    def put(
        self, number: int, directory: str, *, attempt: int | None = None, cause: Cause | None = None, **name: Any
    ) -> str:
        """Move a job's file to a directory, as a program or a person would: by one rename."""
        source = self.path_of(number)
        old = naming.parse_job(os.path.basename(source))
        new = old._replace(attempt=attempt or old.attempt, cause=cause, **name)
        os.makedirs(f"{self.root}/{directory}", exist_ok=True)
        target = f"{self.root}/{directory}/{new}"
        os.rename(source, target)
        return target

    def where(self) -> dict[int, str]:
        """Where each job is; a job with more than one file has all of them."""
        found: dict[int, list[str]] = {}
        for directory, filename in sorted(self.files()):
            name = naming.parse_job(filename)
            cause = f"~{name.cause.id}.{name.cause.attempt}" if name.cause else ""
            found.setdefault(name.id, []).append(f"{directory} {name.attempt}{cause}")
        return {number: " and ".join(places) for number, places in sorted(found.items())}


def first_name(each: Job) -> JobName:
    return naming.job_name(priority=each.priority, job=each.id, needs=each.resources.needs, name=each.name)


def home(each: Job) -> str:
    """Where a job lies when it has been submitted."""
    return "blocked" if each.depends_on else f"ready/{naming.scheduler_directory(each.scheduler)}"


def shown(places: Iterable[Place]) -> dict[int, str]:
    """The same as `Tree.where`, of what a store says."""
    found = {}
    for place in places:
        status, name = place.status, place.name
        directory = (
            f"done/{status}" if status in OUTCOMES else str(status) + (f"/{place.detail}" if place.detail else "")
        )
        cause = f"~{name.cause.id}.{name.cause.attempt}" if name.cause else ""
        found[name.id] = f"{directory} {name.attempt}{cause}"
    return found


class Calls:
    """What is asked of the disk, and what happens just before the n-th call of a sort."""

    def __init__(self) -> None:
        self.made: list[tuple[str, str]] = []
        self._before: dict[tuple[str, int], Callable[[], object]] = {}
        self._busy = False

    def __call__(self, operation: str, path: str) -> None:
        if self._busy:
            return
        self.made.append((operation, path))
        happens = self._before.get((operation, self.count(operation)))
        if happens is not None:
            self._busy = True
            try:
                happens()
            finally:
                self._busy = False

    def count(self, operation: str) -> int:
        return sum(made == operation for made, _ in self.made)

    def before(self, operation: str, number: int, happens: Callable[[], object]) -> None:
        """Let something happen just before the n-th such call, counted from 1."""
        self._before[operation, number] = happens


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    """Watch the calls that are made meanwhile."""
    calls = Calls()
    with monkeypatch.context() as patch:
        patch.setattr(fsops, "fault", calls)
        yield calls
