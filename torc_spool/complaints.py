"""The sentences that say what is wrong with a specification, and the checks that many of its parts share."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable
from difflib import get_close_matches
from itertools import islice
from typing import Any, NoReturn, TypeVar

from torc_spool.errors import SpecError

MAX_NAME = 255
MAX_COMMAND_BYTES = 131_071  # the kernel's limit for one argument of exec is 131072 with its NUL
MAX_KEPT_DEPTH = 16  # of what a field holds that is kept as it is given; it is stored as JSON
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_TEMPLATE = re.compile(r"\{[A-Za-z_][^{}\s]*\}")
_SHOWN = 60
_MAX_WORD = 255
_COMPARISONS = 50_000_000  # of characters, in the search for the nearest name: a second or two at most

T = TypeVar("T")


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


def check_command(command: str, where: str, what: str = "command") -> None:
    if not command.strip():
        raise SpecError(f"is empty; give a {what}", where=where)
    if "\0" in command:
        raise SpecError(f"holds a NUL character, which no {what} can; remove it", where=where)
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


def check_kept(value: Any, where: str, depth: int = MAX_KEPT_DEPTH) -> None:
    """What is stored as it was given must be what JSON can hold."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise SpecError("is too large a number; put it in quotes", where=where)
    if isinstance(value, float) and not math.isfinite(value):
        raise SpecError("is no number that JSON can hold; put it in quotes", where=where)
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


def listed(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def refuse_unknown(name: str, known: Collection[str], where: str, section: str) -> NoReturn:
    """A name that stands where one of `section` must stand."""
    template = _TEMPLATE.search(name)
    if template is not None:
        hint = f"; {template[0]} is no parameter here: add it to the parameters, or write the name that is meant"
    else:
        hint = did_you_mean(name, known) or f"; define it under {section}, or correct the name"
        if _TEMPLATE.search(hint):
            hint = f"{hint[:-1]}, which must have parameters too?"
    raise SpecError(f"there is no {quote(name)} among the {section}{hint}", where=where)


def place(kind: str, number: int, item: Any) -> str:
    """Where an item of a list stands: by its name where it has one, else by its number."""
    name = item.get("name") if isinstance(item, dict) else None
    return f"{kind} {quote(name)}" if name and isinstance(name, str) else f"{kind} number {number}"


def check_unique(names: Iterable[str], kind: str) -> None:
    """All are names, and none is there twice."""
    numbers: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        first = numbers.setdefault(name, number)
        if first != number:
            raise SpecError(
                f"{quote(name)} is the name of {kind} number {first} too; give each a name of its own",
                where=f"{kind} number {number}: name",
            )
        check_name(name, f"{kind} number {number}: name")


def refuse_twice(pairs: list[tuple[str, Any]]) -> None:
    """For json.loads as its object_pairs_hook. Raises ValueError for an object that gives one key twice."""
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key is given twice")
