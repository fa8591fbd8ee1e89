"""Reading one record of a specification: its types, and which field is at fault where they are wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import Meta

from torc_spool.complaints import did_you_mean, join_where, listed, quote, show
from torc_spool.errors import SpecError
from torc_spool.specrecords import JobRecord, SpecRecord

_MIN_PART = 3  # characters of a word that is looked for inside of others
_SLIPS = {  # what other tools call it
    "walltime": "runtime",
    "time": "runtime",
    "time_limit": "runtime",
    "timeout": "runtime",
    "deps": "depends_on",
    "depends": "depends_on",
    "dependencies": "depends_on",
    "cmd": "command",
    "inputs": "input_files",
    "outputs": "output_files",
    "environment": "env",
    "params": "parameters",
    "retries": "max_retries",
}
_NAMED_BY_JOBS = {  # fields of what a job only names
    **dict.fromkeys(("num_cpus", "num_gpus", "num_nodes", "memory", "runtime"), "resource_requirements"),
    **dict.fromkeys(("exit_codes", "recovery_script", "max_retries"), "failure_handlers"),
}
_INSTEAD = {  # of fields of Torc that would mean another workflow if they were passed over
    "label": "bind the job with scheduler, to one of the slurm_schedulers, and start its runner with --scheduler",
}
_TRUTHS = ("true", "false", "yes", "no", "on", "off")

R = TypeVar("R", bound=SpecRecord)


def read_record(cls: type[R], item: Any, where: Callable[[], str | None]) -> R:
    """The record that a plain value holds; a field that is null counts as not given.

    `where` is asked only for a message: 100,000 places would be made for nothing.
    """
    known = cls.__struct_fields__
    if not isinstance(item, dict):
        raise SpecError(
            f"must be a mapping with {listed(_required(cls) or known[:1])}, got {show(item)}", where=where()
        )
    for key in item:
        if key not in known:
            raise SpecError(_unknown_field(key, cls), where=where())
    given = {key: value for key, value in item.items() if value is not None}
    try:
        return msgspec.convert(given, cls)
    except msgspec.ValidationError as error:
        raise _explain(cls, given, where()) from error


def _unknown_field(key: str, cls: type[SpecRecord]) -> str:
    known = cls.__struct_fields__
    if cls is JobRecord and key in _INSTEAD:
        return f"unknown field {quote(key)}; {_INSTEAD[key]}"
    meant = _field_meant(key, known)
    elsewhere = _field_meant(key, tuple(_NAMED_BY_JOBS)) if cls is JobRecord else None
    if meant is None and elsewhere is not None:
        section = _NAMED_BY_JOBS[elsewhere]
        return f"unknown field {quote(key)}; give {elsewhere} to one of the {section}, and its name to the job"
    hint = f"; did you mean {quote(meant)}?" if meant else did_you_mean(key, known)
    return f"unknown field {quote(key)}" + (hint or f"; known fields are {listed(known)}")


def _field_meant(key: str, known: tuple[str, ...]) -> str | None:
    """A field that another tool calls so, or whose name holds the word."""
    word = key.lower()
    slip = _SLIPS.get(word)
    if slip in known:
        return slip
    if len(word) < _MIN_PART:
        return None
    starts = [name for name in known if name.startswith(word)]
    return next(iter(starts or [name for name in known if word in name]), None)


def _explain(cls: type[SpecRecord], given: dict[str, Any], where: str | None) -> SpecError:
    """Which field is at fault, and what it should be."""
    missing = next((name for name in _required(cls) if name not in given), None)
    if missing is not None:
        return SpecError("is missing; it must be given", where=join_where(where, missing))
    for field in msgspec.structs.fields(cls):
        if field.name in given and not _converts(given[field.name], field.type):
            message = _wrong_value(field.type, given[field.name])
            return SpecError(message, where=join_where(where, field.name))
    return SpecError("cannot be understood", where=where)


def _wrong_value(annotation: Any, value: Any) -> str:
    expected = describe(annotation)
    if isinstance(value, list) and "list" in expected:
        strange = next((item for item in value if not _converts([item], annotation)), None)
        hint = "" if "codes" in expected else _hint("text", strange)
        return f"must be {expected}, but one of its items is {show(strange)}{hint}"
    return f"must be {expected}, got {show(value)}{_hint(expected, value)}"


def _hint(expected: str, value: Any) -> str:
    if expected == "text" and isinstance(value, bool):
        return "; put it in quotes (without them yes, no, on, off, true and false are truth values)"
    if expected == "text" and isinstance(value, int | float):
        return "; put it in quotes"
    if "list" in expected and isinstance(value, str):
        return "; write it as a list, also when it is only one"
    if "duration" in expected and isinstance(value, int) and not isinstance(value, bool):
        return f"; write PT{value}S for seconds" if 0 < value < 10**9 else ""
    if "from" in expected and isinstance(value, str) and value.isdecimal() and len(value) < 10:
        return "; write it without quotes and without leading zeros"
    if expected == "true or false" and isinstance(value, str) and value.lower() in _TRUTHS:
        return "; write it without quotes"
    return ""


def describe(annotation: Any) -> str:
    """The description of a field's type, also inside `X | None`."""
    for part in (annotation, *getattr(annotation, "__args__", ())):
        for meta in getattr(part, "__metadata__", ()):
            if isinstance(meta, Meta) and meta.description:
                return meta.description
    return "something else"


def _converts(value: Any, annotation: Any) -> bool:
    try:
        msgspec.convert(value, annotation)
    except msgspec.ValidationError:
        return False
    return True


def _required(cls: type[SpecRecord]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(cls) if field.required]
