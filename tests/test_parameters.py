"""Parameters: the values that a text stands for, how they combine, and where they are put."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torc_spool.errors import SpecError
from torc_spool.parameters import (
    MAX_VALUES,
    compile_template,
    expansions,
    parse_values,
    substitute,
    substitute_data,
)

# -- values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "values"),
    [
        ("1:4", [1, 2, 3, 4]),
        (" 1 : 3 ", [1, 2, 3]),
        ("0:100:10", [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100]),
        ("1:100:25", [1, 26, 51, 76]),
        ("-2:1", [-2, -1, 0, 1]),
        ("10:1:-3", [10, 7, 4, 1]),
        ("7:7", [7]),
        ("{1:3}", [1, 2, 3]),
        ("0.0:1.0:0.1", [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        ("1:2:0.5", [1.0, 1.5, 2.0]),
        ("0.5:2.5", [0.5, 1.5, 2.5]),
        ("1e-3:3e-3:1e-3", [0.001, 0.002, 0.003]),
        ("[1,5,10]", [1, 5, 10]),
        ("[0.1, 2, word]", [0.1, 2, "word"]),
        ("['adam','sgd']", ["adam", "sgd"]),
        ("""["a, b", 'c]', 'it\\'s', '007', '']""", ["a, b", "c]", "it's", "007", ""]),
        ("[1, 2,]", [1, 2]),
        ("5", [5]),
        ("0.5", [0.5]),
        ("word", ["word"]),
        ("1234567890123:1234567890125", [1234567890123, 1234567890124, 1234567890125]),
        ("99999999999999999998:99999999999999999999", [99999999999999999998, 99999999999999999999]),
        ("[12345678901234567891]", [12345678901234567891]),
        ("0.12345678901234", [0.12345678901234]),
        ("1e400", ["1e400"]),
        (["1e-4", "x1e-4"], [0.0001, "x1e-4"]),
        ("http://host/x", ["http://host/x"]),
        (7, [7]),
        (0.25, [0.25]),
        ([1, 0.5, "1:3"], [1, 0.5, "1:3"]),
        ([True, False, "yes"], ["true", "false", "yes"]),
    ],
    ids=repr,
)
def test_what_values_a_parameter_has(given_: object, values: list[Any]) -> None:
    found = parse_values(given_)
    assert found == values
    assert list(map(type, found)) == list(map(type, values))


@pytest.mark.parametrize(
    ("given_", "why"),
    [
        ("", "is empty"),
        ([], "has no values"),
        ("[]", "has no values"),
        ("1:10:0", "the step of '1:10:0' is 0"),
        ("10:1", "is empty; its last value is on the other side"),
        ("1:10:-1", "is empty"),
        ("1:x", "is no range"),
        ("1:2:3:4", "is no range"),
        ("[1,,2]", "has an empty value"),
        ("[1, 'a]", 'cannot be read at "\'a"; check its quotes'),
        ("[1, 2", "has no end; close it with ]"),
        ("1:999999999999", f"more than {MAX_VALUES} values"),
        ("0.0:1.0:1e-20", f"more than {MAX_VALUES} values"),
        ([1, None], "got null"),
        ([[1]], "got a list"),
        ({"1:100": None}, "got a mapping; put it in quotes"),
        ("[[1,2],[3]]", "has a list in it"),
        (math.inf, "got inf"),
    ],
    ids=repr,
)
def test_values_that_cannot_be_understood(given_: object, why: str) -> None:
    with pytest.raises(SpecError) as error:
        parse_values(given_)
    assert why in str(error.value)


@given(st.integers(-1000, 1000), st.integers(0, 300), st.integers(1, 50))
def test_a_range_of_integers_is_pythons_with_its_end(first: int, count: int, step: int) -> None:
    last = first + count
    assert parse_values(f"{first}:{last}:{step}") == list(range(first, last + 1, step))
    assert parse_values(f"{last}:{first}:-{step}") == list(range(last, first - 1, -step))


@given(st.integers(-1000, 1000), st.integers(0, 300), st.integers(1, 99))
def test_a_range_of_fractions_has_no_dust(first: int, count: int, step: int) -> None:
    """Each value is the one that a person would write."""
    last = first + count * step
    values = parse_values(f"{Decimal(first).scaleb(-2)}:{Decimal(last).scaleb(-2)}:{Decimal(step).scaleb(-2)}")
    assert values == [float(Decimal(first + number * step).scaleb(-2)) for number in range(count + 1)]


# -- combinations -------------------------------------------------------------------------------------------


def test_product_is_every_one_with_every_other_and_the_last_varies_fastest() -> None:
    found = expansions({"a": "1:2", "b": "['x','y','z']"})
    assert [f"{each['a']}{each['b']}" for each in found] == ["1x", "1y", "1z", "2x", "2y", "2z"]
    assert expansions({}) == expansions({}, "zip") == [{}]


def test_zip_pairs_the_values() -> None:
    assert expansions({"a": "1:2", "b": ["x", "y"]}, "zip") == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


@pytest.mark.parametrize(
    ("parameters", "mode", "why"),
    [
        ({"a": "1:2", "b": "1:3"}, "zip", "with zip all must have the same number of values: a has 2, b has 3"),
        ({"a": "1:2"}, "zipp", "parameter_mode: there is no mode 'zipp'; did you mean 'zip'?"),
        ({"a": "1:x"}, "product", "a: '1:x' is no range"),
        ({"1a": "1:2"}, "product", "1a: '1a' is no name of a parameter"),
        ({"a": "1:100000", "b": "1:100000"}, "product", "make 10000000000 combinations; the limit is"),
    ],
)
def test_what_cannot_be_combined(parameters: dict[str, object], mode: str, why: str) -> None:
    with pytest.raises(SpecError) as error:
        expansions(parameters, mode)
    assert why in str(error.value)


@given(st.lists(st.integers(1, 6), max_size=4))
def test_there_are_as_many_products_as_the_counts_make(counts: list[int]) -> None:
    found = expansions({f"p{number}": f"1:{count}" for number, count in enumerate(counts)})
    assert len(found) == math.prod(counts)
    assert len({tuple(each.items()) for each in found}) == len(found)


# -- templates ----------------------------------------------------------------------------------------------

VALUES = {"i": 5, "lr": 0.0001, "x": 2.0, "name": "adam", "batch-size": 32}


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("job_{i}", "job_5"),
        ("job_{i:03d}", "job_005"),
        ("{i:5d}|{i:>3}|{i:.2f}|{i:x}", "    5|  5|5.00|5"),
        ("{lr} {lr:.4f} {lr:.2e} {lr:g}", "0.0001 0.0001 1.00e-04 0.0001"),
        ("{x} {x:d} {x:03d} {x:.0f}", "2.0 2 002 2"),
        ("{name} {name:>6}|", "adam   adam|"),
        ("{batch-size}", "32"),
        ("{i}{i}", "55"),
        ("{{i}}", "{5}"),
        ("{i:c} {i:n}", "{i:c} {i:n}"),
        ("${i} ${files.input.f1} ${HOME} $i", "${i} ${files.input.f1} ${HOME} $i"),
        ("awk '{print $1}' {a,b} {1..5} {}", "awk '{print $1}' {a,b} {1..5} {}"),
        ("""jq '{i: .x, "i": {lr: 1}}'""", """jq '{i: .x, "i": {lr: 1}}'"""),
        ("{unknown} {i2} {I}", "{unknown} {i2} {I}"),
        ("", ""),
    ],
)
def test_where_values_are_put_and_what_stays(text: str, becomes: str) -> None:
    assert substitute(text, VALUES) == becomes


@pytest.mark.parametrize(
    ("value", "text"), [(1e-7, "0.0000001"), (1e22, "10000000000000000000000"), (1.0, "1.0"), (1, "1"), (-0.5, "-0.5")]
)
def test_a_number_is_written_without_an_exponent(value: float, text: str) -> None:
    assert substitute("{v}", {"v": value}) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{name:03d}", "{name:03d} does not suit the text 'adam': it is for numbers"),
        ("{lr:d}", "{lr:d} does not suit the number 0.0001"),
        ("{i:99999d}", "it is wider than 9999"),
    ],
)
def test_a_format_that_does_not_suit_its_value(text: str, why: str) -> None:
    with pytest.raises(SpecError) as error:
        substitute(text, VALUES)
    assert why in str(error.value)


def test_a_template_says_what_it_uses_and_is_rendered_many_times() -> None:
    template = compile_template("{i:02d}-{name}-{other}", ["i", "name", "unused"])
    assert template.uses == {"i", "name"}
    rendered = [template.render({"i": number, "name": "a"}) for number in range(3)]
    assert rendered == ["00-a-{other}", "01-a-{other}", "02-a-{other}"]


def test_data_is_substituted_all_through() -> None:
    data = {"of_{i}": ["{name}", {"deep": "{lr}"}, 3, None, True]}
    assert substitute_data(data, VALUES) == {"of_5": ["adam", {"deep": "0.0001"}, 3, None, True]}


def test_keys_that_become_the_same_are_refused() -> None:
    with pytest.raises(SpecError, match="make two keys of one mapping the same"):
        substitute_data({"a{i}": 1, "a5": 2}, VALUES)


def test_values_in_a_regular_expression_are_found_as_they_are() -> None:
    template = compile_template("^a_{x}_{i:02d}.*$", ["x", "i"])
    assert template.render({"x": 0.1, "i": 5}, escaped=True) == r"^a_0\.1_05.*$"


@given(st.text())
def test_a_text_without_parameters_stays(text: str) -> None:
    assert substitute(text, {}) == text
    assert compile_template(text, ()).uses == frozenset()


@given(st.text(), st.integers(), st.text())
def test_whole_numbers_come_out_as_they_are(before: str, number: int, after: str) -> None:
    before = before.rstrip("$")
    assert substitute(f"{before}{{i}}{after.replace('{i', '')}", {"i": number}).startswith(
        f"{before.replace('{i}', str(number))}"
    )
