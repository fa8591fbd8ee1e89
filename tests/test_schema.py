"""The schema takes what the reader takes, and refuses the types and fields that it refuses."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import cliutil
import jsonschema
import msgspec
import pytest
import yaml
from cliutil import Lab
from hypothesis import given, settings
from hypothesis import strategies as st

from torc_spool import specrecords, specschema
from torc_spool.errors import SpecError
from torc_spool.specrecords import SpecRecord, read_record
from torc_spool.specschema import ITEMS, OPEN

ROOT = Path(__file__).resolve().parent.parent
LAW = settings(deadline=None)  # no test fails because the machine is busy

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


REQUIRED: dict[str, Any] = {"name": "a", "command": "true", "jobs": []}
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2) | st.sampled_from([10**6, 10**30]),
    st.sampled_from([0.5, -1.5]),  # whole ones such as 1.0 are integers to a schema, and none to the reader
    st.sampled_from(["", "PT1H", "4g", "word"]),
    st.lists(st.sampled_from(["word", 1, None]), max_size=2),
    st.dictionaries(st.just("word"), st.integers(0, 1), max_size=1),
)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
@LAW
@given(data=st.data())
def test_a_record_is_valid_exactly_when_the_reader_takes_its_fields(
    record: type[SpecRecord], data: st.DataObject
) -> None:
    fields = msgspec.structs.fields(record)
    changes = st.dictionaries(st.sampled_from([*(field.name for field in fields), "unknown"]), VALUES, max_size=3)
    item = {field.name: REQUIRED[field.name] for field in fields if field.required} | data.draw(changes)
    items = {name: [] for name in ITEMS.get(record, {}) if isinstance(item.get(name), list)}
    item |= items  # what is in those lists is read as records of their own
    own = {key: value for key, value in item.items() if key in record.__struct_fields__} if record in OPEN else item
    try:
        read_record(record, own, lambda: None)
    except SpecError:
        taken = False
    else:
        taken = True
    assert validator(record).is_valid(item) == taken


@pytest.mark.parametrize(
    ("document", "where"),
    [
        ({"jobs": []}, []),
        ({"name": "n", "jobs": [{"name": "j", "command": "true", "job": 1}]}, ["jobs", 0]),
        ({"name": "n", "jobs": [{"name": "j", "command": 1}]}, ["jobs", 0, "command"]),
        ({"name": "n", "jobs": [{"name": "j", "command": None}]}, ["jobs", 0, "command"]),
        ({"name": "n", "jobs": None}, ["jobs"]),
        ({"name": "n", "jobs": [1]}, ["jobs", 0]),
        ({"name": "n", "jobs": [{"name": "j", "command": "c", "depends_on": "i"}]}, ["jobs", 0, "depends_on"]),
    ],
    ids=["missing", "unknown field", "number for text", "null where needed", "no list", "no mapping", "text for list"],
)
def test_what_is_wrong_is_found_in_its_place(document: dict[str, Any], where: list[str | int]) -> None:
    assert where in [list(error.absolute_path) for error in FILE.iter_errors(document)]


def test_schedulers_keep_what_they_are_given() -> None:
    FILE.validate({"name": "n", "jobs": [], "slurm_schedulers": [{"name": "s", "partition": "gpu", "nodes": 2}]})


def test_the_command_prints_it_with_descriptions(lab: Lab) -> None:
    printed = lab.torc("schema").json
    assert printed == SCHEMA
    assert printed["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    priority = printed["$defs"]["JobRecord"]["properties"]["priority"]
    assert (priority["description"], priority["default"]) == ("a whole number from 0 to 999999", 0)
