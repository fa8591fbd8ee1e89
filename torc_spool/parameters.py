"""Parameters of a specification: what values they have, how these combine, and where they stand in a text. Pure.

The forms are those of Torc's parameterization. A value is a whole number, a number with a fraction, or a word.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Collection, Iterator, Mapping
from decimal import Decimal, localcontext
from typing import Any

from torc_spool.complaints import did_you_mean, listed, quote, show
from torc_spool.errors import SpecError

Value = int | float | str

MAX_VALUES = 1_000_000  # of a parameter, and combinations of all
_MAX_WIDTH = 9999

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_INTEGER = re.compile(r"[-+]?[0-9]{1,40}")
_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][-+]?[0-9]{1,3})?")
_EXPONENT = re.compile(r"[-+]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})[eE][-+]?[0-9]{1,3}")
_ITEM = re.compile(r"""\s*(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|([^,'"]*?))\s*(,|$)""", re.DOTALL)
# a `$` before the brace makes it the shell's; what is not as Python formats a value is no template
_FIELD = re.compile(
    r"(?<!\$)\{([A-Za-z_][A-Za-z0-9_-]*)(?::((?:[^{}\s]?[<>=^])?[-+]?#?0?[0-9]*[,_]?(?:\.[0-9]+)?[bdeEfFgGosxX%]?))?\}"
)
_MODES = ("product", "zip")


def parse_values(given: object) -> list[Value]:
    """The values that one parameter is given: `1:100`, `0:100:10`, `0.0:1.0:0.1` (ends included), `[1, 5]`,
    `['adam', 'sgd']`, a single value, or a list as YAML has it, with true and false as these words. Raises SpecError.

    Steps are added exactly, as they are written: 0.0:1.0:0.1 has 0.3 in it, not 0.30000000000000004.
    """
    if isinstance(given, list):
        values = [_plain(item) for item in given]
    elif isinstance(given, str):
        text = given.strip()
        if text.startswith("{") and text.endswith("}") and "," not in text:
            text = text[1:-1].strip()  # Torc takes {1:100} for 1:100
        values = _parse_text(text)
    else:
        values = [_plain(given)]
    if not values:
        raise SpecError("has no values; give at least one")
    return values


def expansions(parameters: Mapping[str, object], mode: str = "product") -> list[dict[str, Value]]:
    """All combinations of the parameters' values: every one with every other, the last varying fastest, or with
    `zip` the first ones, the second ones and so on. Raises SpecError.
    """
    if mode not in _MODES:
        hint = did_you_mean(mode, _MODES) or f"; it is {listed(_MODES)}"
        raise SpecError(f"there is no mode {quote(mode)}{hint}", where="parameter_mode")
    values = {name: _values_of(name, given) for name, given in parameters.items()}
    if not values:
        return [{}]
    if mode == "zip":
        counts = {name: len(each) for name, each in values.items()}
        if len(set(counts.values())) > 1:
            has = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise SpecError(f"with zip all must have the same number of values: {has}")
        return [dict(zip(values, each, strict=True)) for each in zip(*values.values(), strict=True)]
    total = math.prod(map(len, values.values()))
    if total > MAX_VALUES:
        raise SpecError(f"make {total} combinations; the limit is {MAX_VALUES}")
    return [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]


class Template:
    """A text with places for values, made by `compile_template`."""

    __slots__ = ("_parts", "uses")

    def __init__(self, parts: list[str | tuple[str, str]]) -> None:
        self._parts = parts  # literal text, or a parameter and how it is written
        self.uses = frozenset(part[0] for part in parts if not isinstance(part, str))

    def render(self, values: Mapping[str, Value], *, escaped: bool = False) -> str:
        """The text with these values, `escaped` where it is a regular expression that they are to be found by.

        Raises SpecError where one cannot be written as is asked for.
        """
        clean = re.escape if escaped else str
        written = [part if isinstance(part, str) else clean(_written(values[part[0]], *part)) for part in self._parts]
        return "".join(written)


def compile_template(text: str, names: Collection[str]) -> Template:
    """Find `{name}` and `{name:format}` of these parameters; all other braces, and `${...}`, stay as they are."""
    parts: list[str | tuple[str, str]] = []
    end = 0
    for match in _FIELD.finditer(text):
        if match[1] in names:
            parts += [text[end : match.start()], (match[1], match[2] or "")]
            end = match.end()
    parts.append(text[end:])
    return Template([part for part in parts if part])


def substitute(text: str, values: Mapping[str, Value]) -> str:
    """`compile_template` and `render` for a text that is used once."""
    return compile_template(text, values).render(values)


def substitute_data(data: Any, values: Mapping[str, Value]) -> Any:
    """The same in all texts of nested lists and mappings, keys too."""
    if isinstance(data, str):
        return substitute(data, values)
    if isinstance(data, list):
        return [substitute_data(item, values) for item in data]
    if isinstance(data, dict):
        made = {substitute_data(key, values): substitute_data(item, values) for key, item in data.items()}
        if len(made) < len(data):
            raise SpecError(f"the values make two keys of one mapping the same: {listed(map(quote, made))}")
        return made
    return data


def check_parameter(name: str) -> None:
    """Raises SpecError for what is no name of a parameter."""
    if not _NAME.fullmatch(name):
        raise SpecError(f"{quote(name)} is no name of a parameter; it is made of letters, digits, _ and -", where=name)


def _values_of(name: str, given: object) -> list[Value]:
    check_parameter(name)
    try:
        return parse_values(given)
    except SpecError as error:
        raise SpecError(error.message, where=name) from error


def _plain(value: object) -> Value:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, int | float | str):
        hint = "; put it in quotes" if isinstance(value, dict) else ""
        raise SpecError(f"a value must be a number or text, got {show(value)}{hint}")
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        return float(value)  # YAML 1.1 reads 1e-4 as text
    if isinstance(value, float) and not math.isfinite(value):
        raise SpecError(f"a value must be a number or text, got {value}")
    return value


def _parse_text(text: str) -> list[Value]:
    if not text:
        raise SpecError("is empty; give values such as 1:100, [1,5,10] or ['a','b']")
    if text.startswith("["):
        return list(_parse_list(text))
    parts = [part.strip() for part in text.split(":")]
    if len(parts) == 1 or not _NUMBER.fullmatch(parts[0]):
        return [word(text)]
    if len(parts) > 3 or not all(map(_NUMBER.fullmatch, parts)):
        raise SpecError(f"{quote(text)} is no range; write first:last or first:last:step in numbers, or ['{text}']")
    return _parse_range(text, parts)


def _parse_range(text: str, parts: list[str]) -> list[Value]:
    with localcontext(prec=100):
        exact = _steps(text, *map(Decimal, [*parts, "1"][:3]))
    whole = all(map(_INTEGER.fullmatch, parts))
    return [int(value) for value in exact] if whole else [float(value) for value in exact]


def _steps(text: str, first: Decimal, last: Decimal, step: Decimal) -> list[Decimal]:
    if not step:
        raise SpecError(f"the step of {quote(text)} is 0; give another")
    if (last - first) * step < 0:
        raise SpecError(f"the range {quote(text)} is empty; its last value is on the other side of its first")
    if (last - first) / step >= MAX_VALUES:
        raise SpecError(f"the range {quote(text)} has more than {MAX_VALUES} values; give fewer")
    count = int((last - first) // step) + 1
    return [first + number * step for number in range(count)]


def _parse_list(text: str) -> Iterator[Value]:
    if not text.endswith("]"):
        raise SpecError(f"the list {quote(text)} has no end; close it with ]")
    inner, at = text[1:-1], 0
    if "[" in re.sub(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", "", inner, flags=re.DOTALL):
        raise SpecError(f"the list {quote(text)} has a list in it; put text that holds [ in quotes")
    while inner[at:].strip():
        match = _ITEM.match(inner, at)
        if match is None:
            raise SpecError(f"the list {quote(text)} cannot be read at {quote(inner[at:].strip())}; check its quotes")
        single, double, bare, _ = match.groups()
        if bare is not None and not bare:
            raise SpecError(f"the list {quote(text)} has an empty value; remove a comma, or write ''")
        quoted = single if single is not None else double
        yield word(bare) if bare is not None else re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
        at = match.end()


def word(text: str) -> Value:
    """A number where it looks like one, else text."""
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) and math.isfinite(float(text)) else text


@functools.lru_cache(maxsize=1 << 16, typed=True)
def _written(value: Value, name: str, form: str) -> str:
    """A value as text. A number with a fraction is written without an exponent: 0.0001, not 1e-04."""
    if not form:
        return format(Decimal(repr(value)), "f") if isinstance(value, float) else str(value)
    if isinstance(value, float) and value.is_integer() and form[-1] in "bcdoxX":
        value = int(value)
    try:
        if isinstance(value, str) and form[-1] in "bcdeEfFgGoxXn%":
            raise ValueError("it is for numbers")
        if any(int(digits) > _MAX_WIDTH for digits in re.findall("[0-9]+", form)):
            raise ValueError(f"it is wider than {_MAX_WIDTH}")
        return format(value, form)
    except (ValueError, OverflowError) as error:
        raise SpecError(f"{{{name}:{form}}} does not suit {show(value)}: {error}") from error
