"""What has parameters becomes as many as their values make; what then bears one name, and is alike, is one.

Only the lists of dependencies and files may differ among those that become one: it has all of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from torc_spool.complaints import check_name, join_where, listed, place, quote, refuse_unknown, show
from torc_spool.errors import SpecError
from torc_spool.parameters import Value, compile_template, expansions, substitute_data
from torc_spool.specrecords import Parameterised
from torc_spool.tables import rows, with_lists

R = TypeVar("R", bound=Parameterised)

UNITED = (
    "depends_on",
    "depends_on_regexes",
    "input_files",
    "input_file_regexes",
    "output_files",
    "output_file_regexes",
    "input_datasets",
    "output_datasets",
    "input_user_data",
    "input_user_data_regexes",
    "output_user_data",
    "output_user_data_regexes",
)
_OWN = ("parameters", "parameter_mode", "use_parameters", "parameters_file", "use_parameters_file")


class Common(NamedTuple):
    """What the workflow has for those that use it."""

    parameters: Mapping[str, Any]
    table: str | None = None  # its path


class _Field(NamedTuple):
    """A field that is not the same for all values."""

    name: str
    render: Callable[[Mapping[str, Any]], Any]


class _United:
    """Several records that bear one name."""

    __slots__ = ("lists", "record")

    def __init__(self, record: Parameterised) -> None:
        self.record = record
        self.lists: dict[str, dict[str, None]] = {}

    def add(self, record: Parameterised, fields: Sequence[_Field]) -> str | None:
        """Unite the lists; returns the name of a field that must not differ and does."""
        for name, _ in fields:
            value, own = getattr(record, name), getattr(self.record, name)
            if name in UNITED:
                union = self.lists.get(name)
                if union is None:
                    union = self.lists[name] = dict.fromkeys(own)
                union.update(dict.fromkeys(value))
            elif value != own:
                return name
        return None


def with_variables(document: Any) -> Any:
    """A file with the values of its `variables` where `{name}` stands in a text of it, and without these: constants,
    of which nothing becomes several. Raises SpecError."""
    given = document.get("variables") if isinstance(document, dict) else None
    if not given:
        return document
    if not isinstance(given, dict):
        raise SpecError(f"must be a mapping of names to text, got {show(given)}", where="variables")
    rest = {field: value for field, value in document.items() if field != "variables"}
    parameters = set().union(*_names_of_parameters(rest))
    values = {}
    for name, value in given.items():
        if value is None:
            continue
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise SpecError(f"must be text, got {show(value)}; put it in quotes", where=f"variables: {quote(name)}")
        if name in parameters:
            raise SpecError("is the name of a parameter too; rename one of them", where=f"variables: {quote(name)}")
        values[name] = value
    return {field: _with_values(value, values, field) for field, value in rest.items()}


def _with_values(data: Any, values: Mapping[str, Any], where: str) -> Any:
    if isinstance(data, list):
        items = enumerate(data, start=1)
        return [_with_values(item, values, join_where(where, place("item", number, item))) for number, item in items]
    try:
        return substitute_data(data, values)
    except SpecError as error:
        raise SpecError(error.message, where=where) from error


def _names_of_parameters(document: Mapping[str, Any]) -> Iterator[Collection[str]]:
    """Its own, and those of each item; what is none of these the reader complains about."""
    sections = (document.get(section) for section in ("jobs", "files", "datasets", "user_data"))
    items = (item for section in sections if isinstance(section, list) for item in section)
    for holder in (document, *items):
        parameters = holder.get("parameters") if isinstance(holder, dict) else None
        if isinstance(parameters, dict):
            yield parameters


def check_shared(common: Common) -> None:
    """The workflow's own parameters have values, also those that nobody uses. Raises SpecError."""
    if common.table is not None:
        if common.parameters:
            raise SpecError("is given, and parameters too; give one of them", where="parameters_file")
        _rows(common.table, "parameters_file")
    for name, given in common.parameters.items():
        try:
            expansions(with_lists({name: given}))
        except SpecError as error:
            raise SpecError(error.message, where=join_where("parameters", error.where)) from error


def expand(records: Sequence[R], shared: Common, kind: str) -> list[R]:
    """All that the records stand for, in their order. Raises SpecError; `kind` is what messages call one."""
    made: dict[str, R] = {}
    numbers: dict[str, int] = {}
    for number, record in enumerate(records, start=1):
        for one in _of_one(record, shared, kind, number):
            first = numbers.setdefault(one.name, number)
            if first != number:
                raise SpecError(
                    f"{quote(one.name)} is the name of {kind} number {first} too; give each a name of its own",
                    where=f"{kind} number {number}: name",
                )
            check_name(one.name, f"{kind} number {number}: name")
            made[one.name] = one
    return list(made.values())


def _of_one(record: R, shared: Common, kind: str, number: int) -> Sequence[R]:
    has_table = record.parameters_file is not None or record.use_parameters_file
    if not record.parameters and not record.use_parameters and not has_table:
        return (record,)
    where = place(kind, number, {"name": record.name})
    if has_table:
        combinations = _of_table(record, shared, where)
    else:
        parameters = _parameters(record, shared.parameters, where)
        try:
            combinations = expansions(with_lists(parameters), record.parameter_mode)
        except SpecError as error:
            raise SpecError(error.message, where=join_where(where, "parameters", error.where)) from error
    fields = _varying(record, frozenset(combinations[0]) if combinations else frozenset(), where)
    made: dict[str, R] = {}
    united: dict[str, _United] = {}
    for values in combinations:
        one = msgspec.structs.replace(record, **_rendered(fields, values, where))
        first = made.setdefault(one.name, one)
        if first is one:
            continue
        group = united.get(one.name)
        if group is None:
            group = united[one.name] = _United(first)
        differs = group.add(one, fields)
        if differs is not None:
            raise _differing(one.name, kind, differs, sorted(values))
    for name, group in united.items():
        lists = {field: list(union) for field, union in group.lists.items()}
        made[name] = msgspec.structs.replace(made[name], **lists)
    return list(made.values())


def _of_table(record: Parameterised, shared: Common, where: str) -> list[dict[str, Value]]:
    """A combination for each row of its own table, or of the workflow's."""
    if record.parameters or record.use_parameters or record.parameter_mode != "product":
        raise SpecError("has a table, and parameters too; give one of them", where=where)
    if record.parameters_file is not None:
        if record.use_parameters_file:
            raise SpecError("has a parameters_file, and use_parameters_file too; give one of them", where=where)
        return _rows(record.parameters_file, join_where(where, "parameters_file"))
    if shared.table is None:
        raise SpecError(
            "the workflow has no parameters_file; give it one", where=join_where(where, "use_parameters_file")
        )
    return _rows(shared.table, "parameters_file")


def _rows(path: str, where: str) -> list[dict[str, Value]]:
    try:
        return rows(path)
    except SpecError as error:
        raise SpecError(error.message, where=join_where(where, error.where)) from error


def _parameters(record: Parameterised, shared: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Those that it uses of the workflow's, and its own, which win."""
    for name in record.use_parameters:
        if name not in shared and name not in record.parameters:
            refuse_unknown(name, shared, join_where(where, "use_parameters"), "parameters")
    return {name: shared[name] for name in record.use_parameters if name in shared} | record.parameters


def _varying(record: Parameterised, names: frozenset[str], where: str) -> list[_Field]:
    found = []
    for field in record.__struct_fields__:
        if field in _OWN:
            continue
        try:
            render = _renderer(getattr(record, field), names, escaped=field.endswith("_regexes"))
        except SpecError as error:
            raise SpecError(error.message, where=join_where(where, field, error.where)) from error
        if render is not None:
            found.append(_Field(field, render))
    return found


def _renderer(value: Any, names: frozenset[str], *, escaped: bool) -> Callable[[Mapping[str, Any]], Any] | None:
    """How a value is made for each combination; None where it is the same for all."""
    if isinstance(value, str):
        template = compile_template(value, names)
        return template.render if template.uses else None
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        templates = [compile_template(item, names) for item in value]
        if not any(template.uses for template in templates):
            return None
        return lambda values: [template.render(values, escaped=escaped) for template in templates]
    if isinstance(value, list | dict) and _mentions(value, names):
        return lambda values: substitute_data(value, values)
    return None


def _mentions(value: Any, names: frozenset[str]) -> bool:
    """Whether there is a template in it somewhere."""
    if isinstance(value, str):
        return bool(compile_template(value, names).uses)
    if isinstance(value, dict):
        return any(_mentions(key, names) or _mentions(item, names) for key, item in value.items())
    return isinstance(value, list) and any(_mentions(item, names) for item in value)


def _rendered(fields: Sequence[_Field], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    rendered = {}
    for name, render in fields:
        try:
            rendered[name] = render(values)
        except SpecError as error:
            raise SpecError(error.message, where=join_where(where, name, error.where)) from error
    return rendered


def _differing(name: str, kind: str, field: str, parameters: Sequence[str]) -> SpecError:
    return SpecError(
        f"the values of {listed(parameters)} make several of this name, whose {field} is not the same; "
        "use all parameters that make a difference in the name too",
        where=f"{kind} {quote(name)}: {field}",
    )
