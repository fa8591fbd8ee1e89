"""The text of a specification, YAML, JSON or JSON5, to plain values: dict, list, str, int, float, bool, None.

YAML is built from libyaml's events, without a tree of nodes between, with a stack of its own, because
- a mapping that gives one key twice is a mistake (YAML loaders keep the last without a word);
- nesting and aliases are the writer's to choose, and may not choose our stack or memory;
- it is several times as fast as yaml.load, which counts for 100,000 jobs.

Scalars are read as YAML 1.1 and 1.2 both read them, and 1.1's ``yes``/``no``/``on``/``off`` as truth, but not where
text is meant (`TEXTUAL`). What the two disagree on (``010``, ``04:00:00``, ``2024-01-01``, ``1_000``) stays text, as it
was written.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import sys
from typing import Any, BinaryIO, NoReturn

import msgspec
import yaml
from yaml.events import (
    AliasEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    MappingStartEvent,
    ScalarEvent,
    StreamEndEvent,
)

from torc_spool import json5file
from torc_spool.complaints import refuse_twice
from torc_spool.errors import SpecError

MAX_BYTES = 2**30
MAX_DEPTH = 64
TEXTUAL = frozenset({"env", "parameters", "variables"})  # keys of mappings of text: DEBUG: on, country: [se, no]
MAX_ALIASED = 2**26  # characters of the file that aliases may stand for, nested ones counted each time

STANDARD_INPUT = "standard input"
_STR_TAG = "tag:yaml.org,2002:str"
_COLLECTION_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_WORDS: dict[str, bool | None] = {
    spelling: value
    for word, value in {
        "~": None,
        "": None,
        "null": None,
        "true": True,
        "yes": True,
        "on": True,
        "false": False,
        "no": False,
        "off": False,
    }.items()
    for spelling in (word, word.capitalize(), word.upper())
}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,4000})")  # int() takes no more than 4300 digits
_FLOAT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\.[0-9]*(?:[eE][-+]?[0-9]{1,3})?")
_NUMBER_STARTS = frozenset("+-0123456789")
_ADVICE = {  # for what happens to shell commands
    "mapping values are not allowed in this context": "; put text that holds a colon and a space in quotes",
    "found character that cannot start any token": "; put text that begins with @, % or ` in quotes",
}
_TOO_DEEP = f"lists and mappings are nested more than {MAX_DEPTH} deep"
_MERGE = object()  # stands for the key `<<`, which in quotes is a key like any other


def read_bytes(path: str) -> bytes:
    """What the file holds; ``-`` is standard input."""
    try:
        if path == "-":
            return _read_all(_standard_input())
        with open(path, "rb") as file:
            return _read_all(file)
    except FileNotFoundError as error:
        why = "there is no such file; give the path of a YAML or JSON file, or - to read standard input"
        raise SpecError(why, source=source_name(path)) from error
    except IsADirectoryError as error:
        why = "is a directory; give the path of a YAML or JSON file in it"
        raise SpecError(why, source=source_name(path)) from error
    except PermissionError as error:
        why = "may not be read by this user; ask its owner to allow it"
        raise SpecError(why, source=source_name(path)) from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise SpecError(f"cannot be read: {why}", source=source_name(path)) from error


def source_name(path: str) -> str:
    """How messages call the file."""
    if path == "-":
        return STANDARD_INPUT
    return path if path.isprintable() else repr(path)[1:-1]


def read_document(text: str | bytes, source: str) -> Any:
    """The one value that the text holds; None for an empty file."""
    content = _utf8(text, source)
    if source.endswith(".kdl"):
        raise SpecError("KDL is not read; give the same workflow as YAML, JSON or JSON5", source=source)
    if source.endswith(".json5"):
        return json5file.read(content.decode(), source)
    if not (source.endswith(".json") or content.lstrip()[:1] == b"{"):
        return _YamlReader(content, source, "YAML").read()
    try:
        return _read_json(content)
    except (ValueError, RecursionError):
        pass  # YAML reads it too, and says line and column of what is wrong
    has_comments = b"//" in content or b"/*" in content  # YAML would take them for text
    if has_comments and (value := json5file.read_if_it_is(content.decode(), source)) is not None:
        return value
    try:
        return _YamlReader(content, source, "JSON").read()
    except SpecError:
        if not has_comments and (value := json5file.read_if_it_is(content.decode(), source)) is not None:
            return value
        raise


def _standard_input() -> BinaryIO:
    buffer: BinaryIO | None = getattr(sys.stdin, "buffer", None)
    if buffer is None:
        raise OSError(None, "it is closed")
    return buffer


def _read_all(file: BinaryIO) -> bytes:
    """All there is, unless it goes on for ever as /dev/zero does."""
    content = bytearray()
    while chunk := file.read(2**20):
        content += chunk
        if len(content) > MAX_BYTES:
            raise OSError(None, "it is larger than 1 GiB; split it into several workflows")
    return bytes(content)


def _utf8(text: str | bytes, source: str) -> bytes:
    """The text as bytes without a byte order mark, known to be UTF-8."""
    try:
        if isinstance(text, str):
            return text.removeprefix("\ufeff").encode()
        text.decode()
    except UnicodeError as error:
        at = f" (at byte {error.start + 1})" if isinstance(error, UnicodeDecodeError) else ""
        raise SpecError(f"is not UTF-8 text{at}; save it as UTF-8", source=source) from error
    return text.removeprefix(codecs.BOM_UTF8)


def _read_json(content: bytes) -> Any:
    """Raises ValueError for anything that is not strict JSON, or gives a key twice in one object."""
    value = msgspec.json.decode(content)
    json.loads(content, object_pairs_hook=refuse_twice)
    return value


class _Open:
    """A list or mapping whose end has not come yet."""

    __slots__ = ("aliased_before", "anchor", "items", "key", "mapping", "merges", "start")

    def __init__(self, mapping: dict[str, Any] | None, anchor: str | None, start: int, aliased: int) -> None:
        self.mapping = mapping  # None: a list, which grows in `items`
        self.items: list[Any] = []
        self.key: Any = None  # the key that waits for its value
        self.merges: list[Any] | None = None  # values of `<<`; None: not given
        self.anchor, self.start, self.aliased_before = anchor, start, aliased


class _YamlReader:
    """Builds values from events. `weights` and `aliased` count what a file's aliases stand for."""

    def __init__(self, content: bytes, source: str, language: str) -> None:
        self.content, self.source, self.language = content, source, language  # what the file says that it is
        self.stack: list[_Open] = []
        self.top: _Open | None = None
        self.result: Any = None
        self.documents = 0
        self.anchors: dict[str, Any] = {}
        self.weights: dict[str, int] = {}
        self.aliased = 0

    def read(self) -> Any:
        try:
            self._read_events()
        except yaml.YAMLError as error:
            raise self._syntax_error(error) from error
        return self.result

    def _read_events(self) -> None:
        parser = _parser(self.content)
        try:
            event = parser.get_event()
            while type(event) is not StreamEndEvent:
                if type(event) is ScalarEvent:
                    self._scalar(event)
                elif isinstance(event, CollectionStartEvent):
                    self._open(event)
                elif type(event) is AliasEvent:
                    self._alias(event)
                elif type(event) is DocumentStartEvent:
                    self._document(event)
                elif self.top is not None:
                    self._close(event)
                event = parser.get_event()
        finally:
            parser.dispose()

    def _document(self, event: Any) -> None:
        self.documents += 1
        if self.documents > 1:
            self._refuse(event, "a second document begins here; a file holds one workflow")

    def _scalar(self, event: Any) -> None:
        text, (plain, _) = event.value, event.implicit
        if event.tag is not None:
            self._check_tag(event, (_STR_TAG, "!"))
            plain = False
        top = self.top
        if top is not None and top.mapping is not None and top.key is None:
            self._key(top, text, plain, event)
            return
        value = _resolve(text) if plain else text
        if (value is True or value is False) and text.lower() not in ("true", "false") and self._is_in_text():
            value = text
        if event.anchor is not None:
            self._define(event.anchor, value, len(text))
        self._add(value)

    def _is_in_text(self) -> bool:
        return any(open_.key in TEXTUAL for open_ in self.stack)

    def _key(self, top: _Open, text: str, plain: bool, event: Any) -> None:
        if event.anchor is not None:
            self._define(event.anchor, text, len(text))
        if plain and text == "<<":
            if top.merges is not None:
                self._refuse(event, "<< is given twice in one mapping; give it one list: <<: [*a, *b]")
            top.key = _MERGE
        elif top.mapping is not None and text in top.mapping:
            self._refuse(event, f"the key {_shorten(text)} is given twice in one mapping; remove one of them")
        else:
            top.key = text

    def _open(self, event: Any) -> None:
        if event.tag is not None:
            self._check_tag(event, (*_COLLECTION_TAGS, "!"))
        if self.top is not None and self.top.mapping is not None and self.top.key is None:
            self._refuse(event, "a list or mapping cannot be a key; put text that holds { or [ in quotes")
        if len(self.stack) >= MAX_DEPTH:
            self._refuse(event, _TOO_DEEP)
        mapping: dict[str, Any] | None = {} if type(event) is MappingStartEvent else None
        self.top = _Open(mapping, event.anchor, event.start_mark.index, self.aliased)
        self.stack.append(self.top)

    def _close(self, event: Any) -> None:
        closed = self.stack.pop()
        self.top = self.stack[-1] if self.stack else None
        value: Any = closed.items if closed.mapping is None else self._merged(closed, event)
        if closed.anchor is not None:
            weight = event.end_mark.index - closed.start + self.aliased - closed.aliased_before
            self._define(closed.anchor, value, weight)
        self._add(value)

    def _merged(self, closed: _Open, event: Any) -> dict[str, Any] | None:
        """The mapping with what `<<` brings: its own keys win, then the earlier of the merged mappings."""
        if closed.merges is None or closed.mapping is None:
            return closed.mapping
        merged: dict[str, Any] = {}
        for source in reversed(closed.merges):
            if not isinstance(source, dict):
                self._refuse(event, "the value of << must be a mapping or a list of mappings")
            merged.update(source)
        return merged | closed.mapping

    def _alias(self, event: Any) -> None:
        if event.anchor not in self.anchors:
            self._refuse(
                event,
                f"the alias *{event.anchor} stands for nothing; put &{event.anchor} before a value that ends above it",
            )
        if self.top is not None and self.top.mapping is not None and self.top.key is None:
            self._refuse(event, "an alias cannot be a key; write the key itself")
        self.aliased += 1 + self.weights[event.anchor]
        if self.aliased > MAX_ALIASED:
            self._refuse(
                event,
                "the aliases of this file stand for too much text; write fewer of them, or "
                "let jobs wait for one job that waits for all the others",
            )
        self._add(self.anchors[event.anchor])

    def _define(self, anchor: str, value: Any, weight: int) -> None:
        self.anchors[anchor], self.weights[anchor] = value, weight

    def _add(self, value: Any) -> None:
        top = self.top
        if top is None:
            self.result = value
        elif top.mapping is None:
            top.items.append(value)
        elif top.key is _MERGE:
            top.merges, top.key = value if isinstance(value, list) else [value], None
        else:
            top.mapping[top.key] = value
            top.key = None

    def _check_tag(self, event: Any, known: tuple[str, ...]) -> None:
        if event.tag not in known:
            self._refuse(event, f"the tag {_shorten(event.tag)} is not understood; write the value without it")

    def _refuse(self, event: Any, message: str) -> NoReturn:
        raise SpecError(message, source=_place(self.source, event.start_mark))

    def _syntax_error(self, error: yaml.YAMLError) -> SpecError:
        mark = getattr(error, "problem_mark", None)
        if mark is None:
            return self._reader_error(error)
        problem = getattr(error, "problem", None) or "it cannot be read"
        if "nesting depth" in problem:  # libyaml may read ahead as far as to its own limit
            return SpecError(_TOO_DEEP, source=_place(self.source, mark))
        line = b"".join(self.content.split(b"\n", mark.line + 1)[mark.line : mark.line + 1])
        hint = "; indent with spaces, not tabs" if b"\t" in line else _ADVICE.get(problem, "")
        return SpecError(f"this is not {self.language}: {problem}{hint}", source=_place(self.source, mark))

    def _reader_error(self, error: yaml.YAMLError) -> SpecError:
        """libyaml could not take a character: it says at which one, but not in which line."""
        reason = getattr(error, "reason", None) or "it cannot be read"
        position = getattr(error, "position", None)
        if not isinstance(position, int):
            return SpecError(f"this is not {self.language}: {reason}", source=self.source)
        line = self.content.count(b"\n", 0, position) + 1
        return SpecError(
            f"this is not {self.language}: {reason}; remove or escape them", source=f"{self.source}:{line}"
        )


def _parser(content: bytes) -> Any:
    """libyaml where PyYAML was built with it, else the same events from Python, slowly."""
    loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
    return loader(content)


def _place(source: str, mark: Any) -> str:
    return f"{source}:{mark.line + 1}:{mark.column + 1}"


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "...")


def _resolve(text: str) -> Any:
    """The value of a scalar without quotes."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _NUMBER_STARTS:
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    return text
