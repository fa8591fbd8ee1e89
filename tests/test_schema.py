"""The schema takes what the reader takes, and refuses the types and fields that it refuses."""

from __future__ import annotations

import itertools
import typing
from pathlib import Path
from typing import Any

import cliutil
import jsonschema
import msgspec
import pytest
import yaml
from cliutil import Lab

from torc_spool import specrecords, specschema
from torc_spool.complaints import check_command, check_name
from torc_spool.errors import SpecError
from torc_spool.parameters import expansions
from torc_spool.quantities import parse_duration, parse_memory
from torc_spool.specexpand import with_variables
from torc_spool.specparts import read_env, read_slurm_defaults, read_stdio
from torc_spool.specread import read_record
from torc_spool.specrecords import ActionRecord, SpecRecord
from torc_spool.specschema import ITEMS, OPEN

ROOT = Path(__file__).resolve().parent.parent

SCHEMA = specschema.schema()
FILE = jsonschema.Draft202012Validator(SCHEMA)
RECORDS = [
    cls
    for cls in vars(specrecords).values()
    if isinstance(cls, type) and issubclass(cls, SpecRecord) and not cls.__subclasses__()
]

lab = cliutil.lab


def validator(record: type[SpecRecord]) -> jsonschema.Draft202012Validator:
    """Of one record alone."""
    return jsonschema.Draft202012Validator({**SCHEMA, "$ref": f"#/$defs/{record.__name__}"})


def test_it_is_a_schema_and_knows_every_record() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert sorted(SCHEMA["$defs"]) == sorted(record.__name__ for record in RECORDS)


def test_every_list_of_records_says_what_its_items_are() -> None:
    for record in RECORDS:
        hints = typing.get_type_hints(record)
        lists = {
            name for name, hint in hints.items() if typing.get_origin(hint) is list and Any in typing.get_args(hint)
        }
        assert lists <= set(ITEMS.get(record, {})), record
        for name, item in ITEMS.get(record, {}).items():
            shown = str(SCHEMA["$defs"][record.__name__]["properties"][name])
            assert f"'$ref': '#/$defs/{item.__name__}'" in shown


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_examples_are_valid(path: Path) -> None:
    FILE.validate(yaml.safe_load(path.read_text()))


REQUIRED: dict[str, Any] = {
    "name": "a",
    "command": "true",
    "path": "a",
    "jobs": [{"name": "a", "command": "true"}],
    "rules": [{"exit_codes": [1]}],
    "trigger_type": "on_workflow_start",
    "action_type": "run_commands",
}
VALUES: list[Any] = [
    *(None, True, False),
    *(-1, 0, 1, 2, 255, 256, 10**6, 10**6 + 1, 10**30),
    *(0.5, -1.5),  # whole ones such as 1.0 are integers to a schema, and none to the reader
    *("", " ", "PT1H", "P1W2DT1.5S", "PT", "P", "4g", ".5 GiB", "word", "1", "true", "none", "slurm"),
    *([], ["word"], ["word", "other"], [1], [None], [0], ["word", 1], [[]]),
    *({}, {"word": 0}, {"word": None}, {"word": [1, "a"]}, {"word": []}, {"word": [[1]]}, {"a word": 0}),
]


def not_empty(items: list[Any]) -> None:
    if not items:
        raise SpecError("is empty")


LATER: dict[str, Any] = {  # what the reader does with a field once its record is read
    "jobs": not_empty,
    "rules": not_empty,
    "command": lambda text: check_command(text, "command"),
    "path": lambda text: check_command(text, "path"),
    "memory": parse_memory,
    "runtime": parse_duration,
    "parameters": expansions,
    "variables": lambda values: with_variables({"variables": values}),
    "env": lambda values: read_env(values, None),
    "slurm_defaults": read_slurm_defaults,
    "stdio": lambda given: read_stdio(given, None),
}


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_a_record_is_valid_exactly_when_the_reader_takes_its_fields(record: type[SpecRecord]) -> None:
    check = validator(record)
    fields = msgspec.structs.fields(record)
    whole = {field.name: REQUIRED[field.name] for field in fields if field.required}
    assert check.is_valid(whole)
    for name, value in itertools.product([*(field.name for field in fields), "unknown"], VALUES):
        if value and isinstance(value, list | dict) and name in ITEMS.get(record, {}):
            continue  # what it holds is a record of its own
        assert check.is_valid(whole | {name: value}) == taken(record, whole | {name: value}), (name, value)
    for name in whole:
        without = {key: value for key, value in whole.items() if key != name}
        assert not check.is_valid(without), name
        assert not taken(record, without), name


def taken(record: type[SpecRecord], item: dict[str, Any]) -> bool:
    """Whether the reader takes it; of an open record it is shown the fields that it knows."""
    own = {key: value for key, value in item.items() if key in record.__struct_fields__} if record in OPEN else item
    try:
        read = read_record(record, own, lambda: None)
        if "name" in own and own["name"] is not None:
            check_name(read.name, "name")  # type: ignore[attr-defined]  # each record that knows a name
        for name, further in LATER.items():
            if own.get(name) is not None and (name, record) != ("jobs", ActionRecord):
                further(own[name])
    except SpecError:
        return False
    return True


@pytest.mark.parametrize(
    ("document", "where"),
    [
        ({"jobs": [{"name": "j", "command": "c"}]}, []),
        ({"name": "n", "jobs": []}, ["jobs"]),
        ({"name": "n", "jobs": [{"name": "j", "command": "true", "job": 1}]}, ["jobs", 0]),
        ({"name": "n", "jobs": [{"name": "j", "command": 1}]}, ["jobs", 0, "command"]),
        ({"name": "n", "jobs": [{"name": "j", "command": None}]}, ["jobs", 0, "command"]),
        ({"name": "n", "jobs": None}, ["jobs"]),
        ({"name": "n", "jobs": [1]}, ["jobs", 0]),
        ({"name": "n", "jobs": [{"name": "j", "command": "c", "depends_on": "i"}]}, ["jobs", 0, "depends_on"]),
    ],
    ids=[
        "missing",
        "empty",
        "unknown",
        "number for text",
        "null where needed",
        "no list",
        "no mapping",
        "text for list",
    ],
)
def test_what_is_wrong_is_found_in_its_place(document: dict[str, Any], where: list[str | int]) -> None:
    assert where in [list(error.absolute_path) for error in FILE.iter_errors(document)]


def test_schedulers_keep_what_they_are_given() -> None:
    jobs = [{"name": "j", "command": "c"}]
    FILE.validate({"name": "n", "jobs": jobs, "slurm_schedulers": [{"name": "s", "partition": "gpu", "nodes": 2}]})


def test_the_command_prints_it_with_descriptions(lab: Lab) -> None:
    printed = lab.torc("schema").json
    assert printed == SCHEMA
    assert printed["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    priority = printed["$defs"]["JobRecord"]["properties"]["priority"]
    assert (priority["description"], priority["default"]) == ("a whole number from 0 to 999999", 0)
