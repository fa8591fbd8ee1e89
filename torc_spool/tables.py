"""Values of parameters that stand in files: lists (`@FILE`, a value a line) and tables (CSV or JSON, a row for each
combination). Paths are relative to the directory of whoever reads the specification, as Torc has it."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torc_spool.complaints import quote, refuse_twice, show
from torc_spool.errors import SpecError
from torc_spool.parameters import MAX_VALUES, Value, check_parameter, word

MAX_BYTES = 2**28

Row = dict[str, Value]


def with_lists(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with the lines of its file in place of each `@FILE`. Raises SpecError."""
    return {name: _lines(name, given) if _is_list(given) else given for name, given in parameters.items()}


def _is_list(given: object) -> bool:
    return isinstance(given, str) and given.strip().startswith("@")


def _lines(name: str, given: str) -> list[Value]:
    path = given.strip()[1:].strip()
    try:
        lines = (line.strip() for line in _text(path).splitlines())
        return [word(line) for line in lines if line and not line.startswith("#")]
    except SpecError as error:
        raise SpecError(f"{error.message} (for text that begins with @ write ['{given}'])", where=name) from error


def rows(path: str) -> list[Row]:
    """The combinations that a table holds, all with the same names. Raises SpecError."""
    ending = path.lower().rpartition(".")[2]
    if ending not in ("csv", "json", "jsonl", "ndjson"):
        raise SpecError(f"{quote(path)} is no table; its name must end in .csv, .json, .jsonl or .ndjson")
    text = _text(path)
    if ending == "csv":
        found = list(_of_csv(path, text))
    else:
        found = list(_of_json(path, _items(path, text, lines=ending != "json")))
    if not found:
        raise SpecError(f"the table {quote(path)} has no rows")
    if len(found) > MAX_VALUES:
        raise SpecError(f"the table {quote(path)} has more than {MAX_VALUES} rows; give fewer")
    for name in found[0]:
        check_parameter(name)
    for number, row in enumerate(found, start=1):
        odd = next(iter(row.keys() ^ found[0].keys()), None)
        if odd is not None:
            has = "has" if odd in row else "has no"
            raise SpecError(f"row {number} of the table {quote(path)} {has} {quote(odd)}, unlike the first row")
    return found


def _text(path: str) -> str:
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SpecError(f"{quote(path)} is no regular file")
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise SpecError(f"{quote(path)} is larger than 256 MiB")
        return content.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        why = "it is not UTF-8 text" if isinstance(error, UnicodeError) else getattr(error, "strerror", None) or error
        raise SpecError(f"{quote(path)} cannot be read: {why}") from error


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe without a writer would hold up the reader for ever


def _of_csv(path: str, text: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        if len(set(names)) < len(names):
            raise SpecError(f"the table {quote(path)} has two columns of one name")
        for cells in itertools.islice(reader, MAX_VALUES + 2):
            if not cells:
                continue
            if len(cells) != len(names):
                raise SpecError(
                    f"line {reader.line_num} of the table {quote(path)} has {len(cells)} cells and its first line "
                    f"{len(names)}"
                )
            yield {name: word(cell.strip()) for name, cell in zip(names, cells, strict=True)}
    except csv.Error as error:
        raise SpecError(f"line {reader.line_num} of the table {quote(path)} is no CSV: {error}") from error


def _items(path: str, text: str, *, lines: bool) -> Any:
    try:
        if lines:
            return [_json(line) for line in text.splitlines() if line.strip()]
        return _json(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"the table {quote(path)} is no JSON: {error}") from error


def _json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_pairs, parse_constant=_refuse)


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON")


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    refuse_twice(pairs)
    return dict(pairs)


def _of_json(path: str, items: Any) -> Iterable[Row]:
    if not isinstance(items, list):
        raise SpecError(f"the table {quote(path)} must be a list of mappings, got {show(items)}")
    for number, item in enumerate(items, start=1):
        if not isinstance(item, dict):
            raise SpecError(f"row {number} of the table {quote(path)} must be a mapping, got {show(item)}")
        yield {name: _plain(value) for name, value in item.items()}


def _plain(value: Any) -> Value:
    """A value that is neither a number nor text stands as its JSON."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return value
    return json.dumps(value, ensure_ascii=False)
