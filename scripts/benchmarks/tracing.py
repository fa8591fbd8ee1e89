"""strace, where it is there and may be used: the calls of a command that bear a path of the spool."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import harness

_CALL = re.compile(r"^\d+\s+(?:(\d+\.\d+) )?(\w+)\((.*)$")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_DESCRIPTOR = re.compile(r"^(?:AT_FDCWD|\d+)<([^>]*)>")
_CREATE = "open(O_CREAT)"
_OPENS = {"O_CREAT": _CREATE, "O_DIRECTORY": "open(O_DIRECTORY)"}  # the latter are listings


class Call(NamedTuple):
    """One system call that has a path."""

    time: float
    name: str
    paths: tuple[str, ...]
    kind: str  # the name, or what an open is for

    @property
    def creates(self) -> bool:
        return self.kind == _CREATE


@cache
def why_not() -> str | None:
    """Why calls cannot be traced here; None when they can."""
    if shutil.which("strace") is None:
        return "there is no strace here; apt-get install strace"
    tried = subprocess.run(["strace", "-f", "-o", os.devnull, "true"], capture_output=True, check=False)
    return None if tried.returncode == 0 else "strace may not trace processes here"


def traced(log: str, words: list[str]) -> list[str]:
    """A command line that runs another and logs its calls, those of its children too."""
    return [
        "strace",
        "-f",
        "-qq",
        "-y",
        "-ttt",
        "-s",
        "4096",
        "-e",
        "trace=%file",
        "-e",
        "signal=none",
        "-o",
        log,
        *words,
    ]


def calls(log: str, below: str) -> Iterator[Call]:
    """The logged calls with a path in a directory."""
    with open(log, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            found = _CALL.match(line)
            if found is None or found[2] == "execve":
                continue  # the second half of a call that was interrupted in the log; or words that are no paths
            paths = tuple(path for path in _paths(found[3]) if path == below or path.startswith(f"{below}/"))
            if paths:
                kinds = (kind for flag, kind in _OPENS.items() if flag in found[3])
                yield Call(float(found[1] or 0), found[2], paths, next(kinds, found[2]))


def _paths(arguments: str) -> Iterator[str]:
    """Absolute paths: what a call names relative to a directory is joined to that."""
    base = _DESCRIPTOR.match(arguments)
    for text in _STRING.findall(arguments):
        if text.startswith("/"):
            yield text
        elif base is not None and text:  # an empty one asks for the open file itself: no path is looked up
            yield f"{base[1]}/{text}"


def run(words: list[str], directory: str, below: str, name: str) -> tuple[list[Call], str]:
    """Run a command to its end; its calls below a directory, and its stdout."""
    log = f"{directory}/{name}.strace"
    said = harness.run(traced(log, words), directory)
    return list(calls(log, below)), said


def kinds(found: list[Call]) -> Counter[str]:
    """How often each kind of call."""
    return Counter(call.kind for call in found)
