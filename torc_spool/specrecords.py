"""The fields of a specification, and how one of its records is read.

To add a field, add it to its record: its type is what is accepted, its description what a message asks for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from itertools import islice
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from torc_spool.errors import SpecError

MAX_NAME = 255
MAX_COMMAND_BYTES = 131_071  # the kernel's limit for one argument of exec is 131072 with its NUL
MAX_KEPT_DEPTH = 16  # of what a scheduler's field holds; it is stored as JSON
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SHOWN = 60
_MAX_WORD = 255
_MIN_PART = 3  # characters of a word that is looked for inside of others
_SLIPS = {  # what other tools call it
    "walltime": "runtime",
    "time": "runtime",
    "time_limit": "runtime",
    "deps": "depends_on",
    "depends": "depends_on",
    "dependencies": "depends_on",
    "cmd": "command",
}
_NOT_YET = frozenset(  # fields of Torc's specification; docs/spec.md lists them
    {
        "files",
        "input_files",
        "output_files",
        "user_data",
        "input_user_data",
        "output_user_data",
        "parameters",
        "parameter_mode",
        "use_parameters",
        "depends_on_regexes",
        "actions",
        "failure_handlers",
        "failure_handler",
        "invocation_script",
    }
)
_COMPARISONS = 50_000_000  # of characters, in the search for the nearest name: a second or two at most

T = TypeVar("T")

Text = Annotated[str, Meta(description="text")]
Truth = Annotated[bool, Meta(description="true or false")]
Priority = Annotated[int, Meta(ge=0, le=999_999, description="a whole number from 0 to 999999")]
NumCpus = Annotated[int, Meta(ge=1, le=100_000, description="a whole number from 1 to 100000")]
NumGpus = Annotated[int, Meta(ge=0, le=10_000, description="a whole number from 0 to 10000")]
NumNodes = Annotated[int, Meta(ge=1, le=100_000, description="a whole number from 1 to 100000")]
Memory = Annotated[str | int, Meta(description="an amount such as 512k, 100m, 4g, or a whole number of bytes")]
Duration = Annotated[str, Meta(description="an ISO 8601 duration such as PT30M, PT2H or P1DT12H")]
JobNames = Annotated[list[str], Meta(description="a list of job names such as [first, second]")]
Records = Annotated[list[Any], Meta(description="a list whose items begin with `- name:`")]


class SpecRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mapping of the specification, its types checked and nothing else."""


class WorkflowRecord(SpecRecord, frozen=True, kw_only=True):
    """The whole file. Its lists are read item by item, so that a message can name the item."""

    name: Text
    jobs: Records
    description: Text | None = None
    user: Text | None = None
    resource_requirements: Records = []
    slurm_schedulers: Records = []


class JobRecord(SpecRecord, frozen=True, kw_only=True):
    """One item of `jobs`."""

    name: Text
    command: Text
    resource_requirements: Text | None = None
    priority: Priority = 0
    scheduler: Text | None = None
    slurm_scheduler: Text | None = None
    depends_on: JobNames = []
    cancel_on_blocking_job_failure: Truth = True
    supports_termination: Truth = False


class RequirementRecord(SpecRecord, frozen=True, kw_only=True):
    """One item of `resource_requirements`."""

    name: Text
    num_cpus: NumCpus = 1
    num_gpus: NumGpus = 0
    num_nodes: NumNodes = 1
    memory: Memory | None = None
    runtime: Duration | None = None


class SchedulerRecord(SpecRecord, frozen=True, kw_only=True):
    """What must be said in an item of `slurm_schedulers`; its other fields are kept as they are given."""

    name: Text


R = TypeVar("R", bound=SpecRecord)


def read_record(cls: type[R], item: Any, where: Callable[[], str | None]) -> R:
    """The record that a plain value holds; a field that is null counts as not given.

    `where` is asked only for a message: 100,000 places would be made for nothing.
    """
    if not isinstance(item, dict):
        raise SpecError(f"must be a mapping with {_listed(_required(cls))}, got {show(item)}", where=where())
    known = cls.__struct_fields__
    for key in item:
        if key not in known:
            raise SpecError(_unknown_field(key, known), where=where())
    given = {key: value for key, value in item.items() if value is not None}
    try:
        return msgspec.convert(given, cls)
    except msgspec.ValidationError as error:
        raise _explain(cls, given, where()) from error


def read_field(where: str | None, field: str, read: Callable[[Any], T], value: Any) -> T:
    """`read(value)`, whose complaint is completed with where the value stands."""
    try:
        return read(value)
    except SpecError as error:
        raise SpecError(error.message, where=join_where(where, field)) from error


def check_name(name: str, where: str) -> None:
    if not name.strip():
        raise SpecError("is empty; give a name", where=where)
    if len(name) > MAX_NAME:
        raise SpecError(f"is {len(name)} characters long; the limit is {MAX_NAME}", where=where)
    if _CONTROL.search(name):
        raise SpecError(f"{quote(name)} holds a control character or a line break; remove it", where=where)
    _utf8(name, where)


def check_command(command: str, where: str) -> None:
    if not command.strip():
        raise SpecError("is empty; give a command", where=where)
    if "\0" in command:
        raise SpecError("holds a NUL character, which no command can; remove it", where=where)
    size = len(_utf8(command, where))
    if size > MAX_COMMAND_BYTES:
        raise SpecError(
            f"is {size} bytes long and the system takes {MAX_COMMAND_BYTES}; put it into a script",
            where=where,
        )


def _utf8(text: str, where: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise SpecError("holds what is not UTF-8 text; remove it", where=where) from error


def check_kept(value: Any, where: str, depth: int) -> None:
    """What is stored as it was given must be what JSON can hold."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise SpecError("is too large a number; put it in quotes", where=where)
    if isinstance(value, list | dict):
        if depth == 0:
            raise SpecError(f"is nested more than {MAX_KEPT_DEPTH} deep", where=where)
        for item in value.values() if isinstance(value, dict) else value:
            check_kept(item, where, depth - 1)


def join_where(*parts: str | None) -> str:
    return ": ".join(part for part in parts if part)


def show(value: Any) -> str:
    """A value as a message quotes it: its kind, and itself while it is short."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) >= 10**20:
        return "a number of more than 20 digits"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {quote(value)}" if value else "empty text"
    kinds = {list: "a list", dict: "a mapping", type(None): "null"}
    return kinds.get(type(value), "something else")


def quote(text: str) -> str:
    """A name in a message, shortened, with control characters made visible."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing where no name is near."""
    if len(word) > _MAX_WORD:
        return ""
    similar = (name for name in names if abs(len(name) - len(word)) <= max(2, len(word) // 4))
    affordable = _COMPARISONS // max(1, len(word) ** 2)
    near = get_close_matches(word, islice(similar, affordable), n=1)
    return f"; did you mean {quote(near[0])}?" if near else ""


def _unknown_field(key: str, known: tuple[str, ...]) -> str:
    if key in _NOT_YET:
        return f"Torc's {quote(key)} is not supported yet; remove it"
    meant = _field_meant(key, known)
    hint = f"; did you mean {quote(meant)}?" if meant else did_you_mean(key, known)
    return f"unknown field {quote(key)}" + (hint or f"; known fields are {_listed(known)}")


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
            expected = describe(field.type)
            message = _wrong_value(expected, given[field.name])
            return SpecError(message, where=join_where(where, field.name))
    return SpecError("cannot be understood", where=where)


def _wrong_value(expected: str, value: Any) -> str:
    if isinstance(value, list) and "list" in expected:
        strange = next((item for item in value if not isinstance(item, str)), None)
        return f"must be {expected}, but one of its items is {show(strange)}{_hint('text', strange)}"
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
    if expected == "true or false" and isinstance(value, str):
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


def _listed(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
