"""Workflows built in Python: the fields of a specification by keyword, and nothing that a specification has not.

What is built becomes the text of a specification and is read by the one reader that there is, so that it has the same
fields, the same limits and the same complaints. A field that the reader learns is known here by that alone.
"""

from __future__ import annotations

import json
import math
import operator
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, SupportsIndex

from torc_spool.errors import SpecError
from torc_spool.model import WorkflowSpec

_MAX_BITS = 10_000  # Python writes no number of more than 4300 digits
_LONGEST_NAME = 200  # of a job, that its resources are named by


class _Fields:
    """Fields of a specification's record by name; one that is None counts as not given."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields = {name: value for name, value in fields.items() if value is not None}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.fields.items())})"


class Resources(_Fields):
    """What a job asks for on each of its nodes: a resource requirement.

    `memory` is text such as "4g", or bytes; `runtime` is an ISO 8601 duration such as "PT30M", or a timedelta. A name
    is made up where none is given.
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        num_cpus: int | None = None,
        num_gpus: int | None = None,
        num_nodes: int | None = None,
        memory: str | int | None = None,
        runtime: str | timedelta | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(
            {
                "name": name,
                "num_cpus": num_cpus,
                "num_gpus": num_gpus,
                "num_nodes": num_nodes,
                "memory": memory,
                "runtime": runtime,
                **fields,
            }
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Resources) and self.fields == other.fields

    __hash__ = None  # type: ignore[assignment]  # the fields may be changed


class Job(_Fields):
    """One command. Jobs may be named by themselves wherever a specification has their names."""

    def __init__(
        self,
        name: str,
        command: str,
        *,
        depends_on: Iterable[Job | str] | None = None,
        resources: Resources | str | None = None,
        priority: int | None = None,
        scheduler: str | None = None,
        **fields: Any,
    ) -> None:
        """`resources` is the specification's `resource_requirements`: what it asks for, or the name of that.

        Other fields are those of docs/spec.md. Mistakes in them are told when the workflow is checked or submitted.
        """
        if resources is not None and fields.get("resource_requirements") is not None:
            message = "resources and resource_requirements are the same; give one of them"
            raise SpecError(message, where=f"job {_quote(name)}")
        if depends_on is not None and not isinstance(depends_on, str | Job):
            depends_on = list(depends_on)
        super().__init__(
            {
                "name": name,
                "command": command,
                "depends_on": depends_on,
                "resource_requirements": resources,
                "priority": priority,
                "scheduler": scheduler,
                **fields,
            }
        )

    @property
    def name(self) -> str:
        name: str = self.fields["name"]
        return name


class Workflow(_Fields):
    """What one submit publishes. Add jobs, then give it to `Spool.submit`."""

    def __init__(self, name: str, jobs: Iterable[Job] = (), **fields: Any) -> None:
        """The other fields are those of docs/spec.md: description, slurm_schedulers, env, files ..."""
        super().__init__({"name": name, **fields})
        self.jobs: list[Any] = list(jobs)
        self._file: str | None = None

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Workflow:
        """What a YAML or JSON file specifies, to be submitted or added to. Raises SpecError."""
        from torc_spool import specfile

        source = specfile.source_name(os.fspath(path))
        document = specfile.read_document(specfile.read_bytes(os.fspath(path)), source)
        if not isinstance(document, dict) or not isinstance(document.get("jobs", []), list | None):
            from torc_spool import spec

            spec.parse(json.dumps(document), source)  # says what is wrong
        workflow = cls.__new__(cls)
        _Fields.__init__(workflow, {name: value for name, value in document.items() if name != "jobs"})
        workflow.jobs, workflow._file = list(document.get("jobs") or []), source
        return workflow

    @property
    def name(self) -> str:
        name: str = self.fields["name"]
        return name

    @property
    def source(self) -> str:
        """What messages call it: the file that it came from, or itself."""
        return self._file or f"workflow {_quote(self.fields.get('name'))}"

    def add(self, job: Job) -> Job:
        """Add a job; returns it, so that others can depend on it."""
        self.jobs.append(job)
        return job

    def job(self, name: str, command: str, **fields: Any) -> Job:
        """Make a job of these fields, and add it."""
        return self.add(Job(name, command, **fields))

    def document(self) -> dict[str, Any]:
        """The specification as plain values, as they would stand in a YAML file. Raises SpecError for what cannot."""
        try:
            requirements = _Requirements(self.fields.get("resource_requirements"))
            document = {
                name: _plain(value, name, name, requirements)
                for name, value in self.fields.items()
                if name != "resource_requirements"
            }
            jobs = [_job(number, job, requirements) for number, job in enumerate(self.jobs, start=1)]
        except SpecError as error:
            raise SpecError(error.message, source=self.source, where=error.where) from error.__cause__
        except RecursionError as error:
            raise SpecError("lists or mappings hold themselves, or are nested too deep", source=self.source) from error
        needed = requirements.listed
        return {**document, **({} if needed is None else {"resource_requirements": needed}), "jobs": jobs}

    def text(self) -> bytes:
        """The specification as JSON: what is kept in the spool as submitted."""
        return json.dumps(self.document(), indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"

    def check(self) -> WorkflowSpec:
        """The validated specification. Raises SpecError, with the words that a file of the same content would get."""
        from torc_spool import spec

        return spec.parse(self.text(), self.source)

    def __repr__(self) -> str:
        return f"<Workflow {self.fields.get('name')!r}, {len(self.jobs)} jobs>"


class _Requirements:
    """The resource requirements of a workflow: those that are given, and those that jobs bring. Equal ones are one."""

    def __init__(self, given: Any) -> None:
        field = "resource_requirements"
        self.listed: Any = None if given is None else _plain(given, field, field, None)
        items = self.listed if isinstance(self.listed, list) else []
        self._taken = {item["name"] for item in items if isinstance(item, dict) and isinstance(item.get("name"), str)}
        self._names = {_key(item): item["name"] for item in items if isinstance(item, dict) and "name" in item}
        self._unnamed: dict[str, str] = {}

    def name_of(self, resources: Resources, where: str, user: str) -> str:
        """The name by which a job (whose name is `user`) is to ask for these."""
        fields = {
            name: _plain(value, name, f"{where}: {name}", None)
            for name, value in resources.fields.items()
            if name != "name"
        }
        key = _key(fields)
        name = resources.fields.get("name")
        if name is None:
            if key in self._unnamed:
                return self._unnamed[key]
            name = self._unnamed[key] = self._new_name(user)
        named = {"name": _plain(name, "name", f"{where}: name", None), **fields}
        if _key(named) not in self._names:
            self._names[_key(named)] = name
            self._taken.add(str(name))
            if not isinstance(self.listed, list):
                self.listed = [] if self.listed is None else [self.listed]
            self.listed.append(named)
        return str(name)

    def _new_name(self, user: str) -> str:
        short = user.isprintable() and len(user) <= _LONGEST_NAME
        stem = f"resources of {user}" if short else "resources"
        number, name = 1, stem
        while name in self._taken:
            number += 1
            name = f"{stem} {number}"
        return name


def _key(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True)


def _job(number: int, job: object, requirements: _Requirements) -> Any:
    """A job's plain values; what is no job is left to the reader to complain about."""
    fields = job.fields if isinstance(job, Job) else job
    name = fields.get("name") if isinstance(fields, dict) else None
    where = f"job {_quote(name)}" if isinstance(name, str) and name else f"job number {number}"
    if not isinstance(fields, dict):
        return _plain(fields, "jobs", where, requirements)
    return _mapping(fields, where, requirements, str(name))


def _mapping(value: Mapping[Any, Any], where: str, requirements: _Requirements | None, user: str) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise SpecError(f"the key {key!r} must be text; put it in quotes", where=where)
        plain[str(key)] = _plain(item, key, f"{where}: {key}" if where else key, requirements, user)
    return plain


def _plain(value: object, field: str, where: str, requirements: _Requirements | None, user: str = "") -> Any:
    """A value as a YAML file could hold it. `field` says what is meant: only paths may be Paths, for one."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise SpecError(f"{float(value)} is no number that a specification can hold", where=where)
        return float(value)
    if isinstance(value, Mapping):
        return _mapping(value, where, requirements, user)
    if isinstance(value, list | tuple):
        return [_plain(item, field, where, requirements, user) for item in value]
    return _meant(value, field, where, requirements, user)


def _text(value: str, where: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise SpecError("holds what is not UTF-8 text; remove it", where=where) from error
    return str.__str__(value)


def _meant(value: object, field: str, where: str, requirements: _Requirements | None, user: str) -> Any:
    """What stands for a plain value: a job for its name, a timedelta for a runtime, a Path for a path."""
    if isinstance(value, Job):
        return _plain(value.fields.get("name"), field, where, None)
    if isinstance(value, Resources):
        if requirements is not None:
            return requirements.name_of(value, where, user)
        return _mapping(value.fields, where, None, user)
    if isinstance(value, SupportsIndex):  # numpy's whole numbers too
        number = operator.index(value)
        if number.bit_length() > _MAX_BITS:
            raise SpecError("is too large a number; put it in quotes", where=where)
        return number
    if isinstance(value, timedelta) and field == "runtime":
        return f"PT{math.ceil(value / timedelta(seconds=1))}S"
    if isinstance(value, os.PathLike):
        if field == "path":
            return _text(os.fsdecode(value), where)
        raise SpecError(f"is a path, {os.fspath(value)!r}, and must be text; write str(...)", where=where)
    if isinstance(value, timedelta):
        raise SpecError("is a timedelta, which only runtime may be; write it as text", where=where)
    if isinstance(value, Iterator | set | frozenset | range):
        raise SpecError(f"is a {type(value).__name__}; make it a list", where=where)
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    raise SpecError(f"is a {kind}, which no specification can hold; make it text or a number", where=where)


def _quote(name: object) -> str:
    return repr(name if not isinstance(name, str) or len(name) <= 60 else name[:60] + "...")
