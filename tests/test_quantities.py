"""Amounts of memory and of time."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spectext import LAW

from torc_spool.errors import SpecError
from torc_spool.quantities import MAX_MEMORY_BYTES, MAX_RUNTIME_S
from torc_spool.spec import from_commands, parse_duration, parse_memory

# Amounts

UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40, "p": 2**50}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("512k", 512 * 2**10),
        ("100m", 100 * 2**20),
        ("4g", 4 * 2**30),
        ("1t", 2**40),
        ("1p", 2**50),
        ("4G", 4 * 2**30),
        ("4gb", 4 * 2**30),
        ("4GiB", 4 * 2**30),
        ("1.5g", 3 * 2**29),
        (".5k", 512),
        ("0.0001k", 1),
        ("100", 100),
        ("100b", 100),
        (" 4 g ", 4 * 2**30),
        (7, 7),
        (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES),
    ],
)
def test_memory(text: str | int, expected: int) -> None:
    assert parse_memory(text) == expected


NOT_MEMORY = ["", "g", "4x", "4ib", "4 4g", "-4g", "+4g", "4.g", "4e3", "1,5g", "\u0664g", "4g\0", "9" * 5000]
NOT_MEMORY += ["0", "0k", "1024p"]


@pytest.mark.parametrize("text", [*NOT_MEMORY, 0, -1, 2**60, True, False, None, 1.5, [], b"4g"])
def test_memory_that_is_refused(text: Any) -> None:
    with pytest.raises(SpecError):
        parse_memory(text)


def test_a_number_too_long_to_print_is_refused() -> None:
    with pytest.raises(SpecError, match="more memory than there is"):
        parse_memory(10**5000)
    with pytest.raises(SpecError, match="a number of more than 20 digits"):
        from_commands(["a"], name="w", priority=10**5000, source="c.txt")


@LAW
@given(st.integers(1, 2**80), st.sampled_from(sorted(UNITS)), st.sampled_from(["", "b", "ib"]), st.booleans())
def test_memory_is_number_times_unit(number: int, unit: str, suffix: str, upper: bool) -> None:
    text = f"{number}{unit}{suffix if unit else ''}"
    text = text.upper() if upper else text
    if number * UNITS[unit] <= MAX_MEMORY_BYTES:
        assert parse_memory(text) == number * UNITS[unit]
    else:
        with pytest.raises(SpecError, match="more memory than there is"):
            parse_memory(text)


@LAW
@given(st.decimals(min_value="0.001", max_value=1000, places=3), st.sampled_from(sorted(UNITS)))
def test_fractions_of_memory_round_up(number: Any, unit: str) -> None:
    assert parse_memory(f"{number}{unit}") == math.ceil(Fraction(number) * UNITS[unit])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PT30M", 1800),
        ("PT2H", 7200),
        ("P1DT12H", 129_600),
        ("P0DT1M", 60),
        ("PT0.5H", 1800),
        ("PT0,5H", 1800),
        ("P1W", 604_800),
        ("P1W1D", 691_200),
        ("P0.5D", 43_200),
        ("PT90S", 90),
        ("PT1H30M5S", 5405),
        ("PT0.1S", 1),
        ("PT1.000001S", 2),
        ("pt30m", 1800),
        (" PT1S\n", 1),
        ("P3650D", MAX_RUNTIME_S),
    ],
)
def test_duration(text: str, expected: int) -> None:
    assert parse_duration(text) == expected


NOT_DURATIONS = ["", "P", "PT", "P1DT", "1h", "30", "01:00:00", "PT1", "T1H", "PT1M1H", "P1S", "P1H"]
NOT_DURATIONS += ["-PT1H", "PT-1H", "PT1.S", "PT.5H", "PT\u0663H", "P" + "1" * 999]
REFUSED_DURATIONS: dict[str, list[Any]] = {
    "is not a duration": NOT_DURATIONS,
    "years or months": ["P1Y", "P1M", "P1Y2M3DT4H", "P0M", "P1MT1H"],
    "is no time at all": ["PT0S", "P0D", "PT0.0H"],
    "is longer than ten years": ["P3651D", "PT99999999999999999999S"],
    "must be text": [None, 30, True, 1.5, b"PT1H"],
}


@pytest.mark.parametrize(
    ("expected", "text"),
    [(expected, text) for expected, texts in REFUSED_DURATIONS.items() for text in texts],
)
def test_duration_that_is_refused(text: Any, expected: str) -> None:
    with pytest.raises(SpecError, match=expected):
        parse_duration(text)


SMALL = st.none() | st.integers(0, 99)


@LAW
@given(SMALL, SMALL, SMALL, SMALL, st.none() | st.decimals(min_value=0, max_value=99, places=2))
def test_duration_is_the_sum_of_its_parts(
    weeks: int | None, days: int | None, hours: int | None, minutes: int | None, seconds: Any
) -> None:
    date = "".join(f"{n}{unit}" for n, unit in ((weeks, "W"), (days, "D")) if n is not None)
    time = "".join(f"{n}{unit}" for n, unit in ((hours, "H"), (minutes, "M"), (seconds, "S")) if n is not None)
    total = (weeks or 0) * 604_800 + (days or 0) * 86_400 + (hours or 0) * 3600 + (minutes or 0) * 60
    expected = math.ceil(total + Fraction(seconds or 0))
    text = f"P{date}" + (f"T{time}" if time else "")
    if expected:
        assert parse_duration(text) == expected
    else:
        with pytest.raises(SpecError):
            parse_duration(text)


@LAW
@given(st.text(alphabet="PTYMWDHS0123456789.,-kgib \n٣", max_size=20))
def test_amounts_refuse_in_one_way_only(text: str) -> None:
    for parse_amount in (parse_memory, parse_duration):
        try:
            assert parse_amount(text) > 0
        except SpecError as error:
            assert "\n" not in str(error)
