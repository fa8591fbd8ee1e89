"""Amounts as people write them: memory such as ``4g``, durations such as ``PT30M``. Exact, no floats."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from torc_spool.errors import SpecError

MAX_MEMORY_BYTES = 2**60 - 1
MAX_RUNTIME_S = 10 * 365 * 24 * 3600

_MAX_TEXT = 64  # longer than any amount that makes sense; keeps the arithmetic small
_MEMORY = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*(?:(?P<unit>[kmgtp])(?:i?b)?|b)?")
_MEMORY_UNITS = {None: 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40, "p": 2**50}
_MEMORY_HINT = "write a number and a unit such as 512k, 100m, 4g or 1t (1024-based; a plain number is bytes)"

_NUMBER = r"[0-9]+(?:[.,][0-9]+)?"
_DURATION = re.compile(
    rf"P(?:(?P<Y>{_NUMBER})Y)?(?:(?P<MO>{_NUMBER})M)?(?:(?P<W>{_NUMBER})W)?(?:(?P<D>{_NUMBER})D)?"
    rf"(?:T(?:(?P<H>{_NUMBER})H)?(?:(?P<M>{_NUMBER})M)?(?:(?P<S>{_NUMBER})S)?)?"
)
_DURATION_UNITS = {"W": 7 * 86400, "D": 86400, "H": 3600, "M": 60, "S": 1}
_DURATION_HINT = "write an ISO 8601 duration such as PT30M, PT2H or P1DT12H"


def parse_memory(text: str | int) -> int:
    """Bytes from ``512k``, ``4g``, ``1.5t``, ``4GiB`` (1024-based); a plain number is bytes.

    Fractions of a byte are rounded up.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        return _memory_in_range(text, "the number")
    if not isinstance(text, str):
        raise SpecError(f"memory must be text or a whole number; {_MEMORY_HINT}")
    match = _MEMORY.fullmatch(text.strip().lower()) if len(text) <= _MAX_TEXT else None
    if match is None:
        raise SpecError(f"{_quoted(text)} is not an amount of memory; {_MEMORY_HINT}")
    exact = Fraction(match["number"]) * _MEMORY_UNITS[match["unit"]]
    return _memory_in_range(math.ceil(exact), _quoted(text))


def parse_duration(text: str) -> int:
    """Seconds from an ISO 8601 duration (weeks, days, hours, minutes, seconds), rounded up to whole ones.

    Years and months are refused: how long they are depends on when they begin.
    """
    if not isinstance(text, str):
        raise SpecError(f"a duration must be text; {_DURATION_HINT}")
    match = _DURATION.fullmatch(text.strip().upper()) if len(text) <= _MAX_TEXT else None
    if match is None or text.strip().upper().endswith(("P", "T")):
        bare = re.fullmatch(r"[1-9][0-9]{0,8}", text.strip())
        hint = f"write PT{bare[0]}S for {bare[0]} seconds" if bare else _DURATION_HINT
        raise SpecError(f"{_quoted(text)} is not a duration; {hint}")
    if match["Y"] or match["MO"]:
        raise SpecError(
            f"{_quoted(text)} counts years or months, which are not always equally long; "
            "write days or weeks (P30D), or put a T before minutes (PT30M)"
        )
    seconds = sum(_exact(match[unit]) * size for unit, size in _DURATION_UNITS.items())
    return _runtime_in_range(math.ceil(seconds), _quoted(text))


def format_duration(seconds: int) -> str:
    """The ISO 8601 duration in hours, minutes and seconds: what `parse_duration` reads, and ``PT0S`` for none."""
    hours, minutes = divmod(seconds // 60, 60)
    parts = [f"{value}{unit}" for value, unit in ((hours, "H"), (minutes, "M"), (seconds % 60, "S")) if value]
    return f"PT{''.join(parts) or '0S'}"


def _exact(number: str | None) -> Fraction:
    return Fraction((number or "0").replace(",", "."))


def _memory_in_range(value: int, given: str) -> int:
    if value <= 0:
        raise SpecError(f"{given} is not more than zero bytes of memory; {_MEMORY_HINT}")
    if value > MAX_MEMORY_BYTES:
        raise SpecError(f"{given} is more memory than there is (the limit is 1024p); {_MEMORY_HINT}")
    return value


def _runtime_in_range(value: int, given: str) -> int:
    if value <= 0:
        raise SpecError(f"{given} is no time at all; {_DURATION_HINT}")
    if value > MAX_RUNTIME_S:
        raise SpecError(f"{given} is longer than ten years; {_DURATION_HINT}")
    return value


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "...")
