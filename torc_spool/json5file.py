"""JSON5: JSON with comments, unquoted keys, last commas. Its reader is an optional library."""

from __future__ import annotations

import json
import re
from typing import Any

from torc_spool.errors import SpecError

_TRIED = 4 << 20  # characters of what says that it is JSON: the library takes seconds for a million
_PLACE = re.compile(r"^<string>:(\d+)\s*(.*?)(?: at column (\d+))?$", re.DOTALL)


def read(text: str, source: str) -> Any:
    """The value that the text holds. Raises SpecError, also when the library is not installed."""
    try:
        import json5
    except ImportError as error:
        raise SpecError(
            "reading JSON5 needs the library json5; install it with: python3 -m pip install 'torc-spool[json5]'",
            source=source,
        ) from error
    if not text.strip():
        return None
    try:
        value = json5.loads(text, allow_duplicate_keys=False)
        json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError as error:
        raise SpecError("holds half of a character (a lone surrogate); remove it", source=source) from error
    except RecursionError as error:
        raise SpecError("lists and mappings are nested too deep", source=source) from error
    except ValueError as error:
        raise _refusal(str(error), source) from error


def read_if_it_is(text: str, source: str) -> Any:
    """The value, or None for what is no JSON5, or cannot be read without the library."""
    if len(text) > _TRIED:
        return None
    try:
        return read(text, source)
    except SpecError:
        return None


def _refusal(message: str, source: str) -> SpecError:
    twice = re.search(r'[Dd]uplicate key "?(.*?)"? ', message + " ")
    if twice:
        return SpecError(f"the key {twice[1]!r} is given twice in one mapping; remove one of them", source=source)
    place = _PLACE.match(message)
    if place is None:
        return SpecError(f"this is not JSON5: {message.splitlines()[0]}", source=source)
    line, what, column = place.groups()
    at = f"{source}:{line}:{column}" if column else f"{source}:{line}"
    return SpecError(f"this is not JSON5: {what}", source=at)
