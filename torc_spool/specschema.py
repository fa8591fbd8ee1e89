"""The JSON Schema of specifications (draft 2020-12), made from the records that read them.

It says what types and fields a record takes. What the reader holds against each other (names that must exist, amounts,
circles) no schema says.
"""

from __future__ import annotations

from typing import Any

import msgspec

from torc_spool.specrecords import (
    ActionRecord,
    DatasetRecord,
    FileRecord,
    HandlerRecord,
    JobRecord,
    Mode,
    RequirementRecord,
    RuleRecord,
    SchedulerRecord,
    SpecRecord,
    StdioRecord,
    UserDataRecord,
    WorkflowRecord,
)

DRAFT = "https://json-schema.org/draft/2020-12/schema"

ITEMS: dict[type[SpecRecord], dict[str, type[SpecRecord]]] = {  # of fields that are read item by item, or as a record
    WorkflowRecord: {
        "jobs": JobRecord,
        "files": FileRecord,
        "datasets": DatasetRecord,
        "user_data": UserDataRecord,
        "resource_requirements": RequirementRecord,
        "failure_handlers": HandlerRecord,
        "slurm_schedulers": SchedulerRecord,
        "actions": ActionRecord,
        "stdio": StdioRecord,
    },
    JobRecord: {"stdio": StdioRecord},
    HandlerRecord: {"rules": RuleRecord},
}
OPEN = frozenset({SchedulerRecord})  # records whose other fields are kept as they are given

_NULL = {"type": "null"}
_MODES = msgspec.json.schema(Mode)["enum"]
_REFERENCE = "#/$defs/{name}"


def schema() -> dict[str, Any]:
    """The schema of a whole file."""
    records: list[type[SpecRecord]] = [
        WorkflowRecord,
        *dict.fromkeys(item for items in ITEMS.values() for item in items.values()),
    ]
    _, components = msgspec.json.schema_components(records, ref_template=_REFERENCE)
    for record in records:
        _follow_reader(record, components[record.__name__])
    return {
        "$schema": DRAFT,
        "title": "torc-spool workflow specification",
        "$ref": _REFERENCE.format(name=WorkflowRecord.__name__),
        "$defs": components,
    }


def _follow_reader(record: type[SpecRecord], found: dict[str, Any]) -> None:
    """What the reader does beyond the types: it takes null for nothing, and reads what a field holds as records."""
    for name, field in found["properties"].items():
        item = ITEMS.get(record, {}).get(name)
        kinds = [_holding(kind, item) if item else kind for kind in _kinds(field)]
        optional = [_NULL] if name not in found["required"] else []
        top = {key: field[key] for key in ("description", "default") if key in field}
        for kind in kinds:  # what an editor shows of a field stands at its top
            top = {key: kind.pop(key) for key in ("description", "default") if key in kind} | top
        found["properties"][name] = top | (
            {"anyOf": [*kinds, *optional]} if len(kinds) + len(optional) > 1 else kinds[0]
        )
    if record in OPEN:
        found["additionalProperties"] = True


def _kinds(field: dict[str, Any]) -> list[dict[str, Any]]:
    """What a field may be, each by itself, but null."""
    if "anyOf" not in field:
        return [] if field == _NULL else [dict(field)]
    above = {key: value for key, value in field.items() if key != "anyOf"}
    return [above | kind for option in field["anyOf"] for kind in _kinds(option)]


def _holding(kind: dict[str, Any], item: type[SpecRecord]) -> dict[str, Any]:
    """A list of such records, or such a record; text in the place of a `stdio` is a mode."""
    if item is StdioRecord and kind.get("type") == "string":
        return kind | {"enum": _MODES}
    reference = {"$ref": _REFERENCE.format(name=item.__name__)}
    if kind.get("type") == "array":
        return kind | {"items": reference}
    return {**{key: kind[key] for key in kind if key != "type"}, **reference} if kind.get("type") == "object" else kind
