"""What hostile input may do, and must not: words that try to escape, and a watch over a command that meets them.

`call` runs a command in this process and holds it to four things: it ends in time, with an exit code of ours and no
traceback; it writes nowhere but below the directories that it was given; it sends nothing to the terminal that the
terminal would obey.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, NamedTuple
from unittest import mock

from hypothesis import strategies as st
from torc_spool_cli import main as cli

TIMEOUT_S = 60.0  # a guard against a hang, never a measure

WORDS = (
    *("", " ", "-", "--", "-x", "--spool", "../../x", "../..", "/", ".", "..", "~", "*", "?", "a/b", "./a"),
    *("a\nb", "a\n#SBATCH --uid=0", "a\r", "a\tb", "\x1b[31mred\x1b]0;title\x07", "\x9b31m", "\x7f", "\x85", "\u2028"),
    *(
        "a" * 300,
        "é" * 300,
        "\u202egnp.exe",
        "\u200b",
        "\ufeff",
        "\N{ROCKET}",
        "\N{CJK UNIFIED IDEOGRAPH-6F22}",
        "\udcff",
    ),
    *("%j", "%x%n", "%s%d%(a)s", "{0}", "{x}", "${files.input.x}", "$HOME", "$(touch x)", "`touch x`", "a;b", "a|b"),
    *("'", '"', "\\", "\\\\", "a'b\"c", "&amp;", "<b>", "[red]", "!!", "#", "a: b", "- a", "{", "[", "{}", "[]"),
    *(
        "0",
        "1",
        "-1",
        "+1",
        "1.5",
        "1e999",
        "-inf",
        "nan",
        "inf",
        "1_0",
        "0x10",
        "9" * 25,
        "9" * 5000,
        "²",
        "\u0661",
        "\uff11",
    ),
    *(
        "null",
        "true",
        "none",
        "any",
        "P1D",
        "PT" + "9" * 400 + "H",
        "P",
        "99999999999999999999g",
        "9" * 400 + "t",
        "1 g",
    ),
    *("1-x", "1-a/../b", "7", "../spool/1-flow", "spec.json", "-1-x", "1:9", "host-1-0123abcd", "CON", ".hidden"),
)
"""As text that a person, a script or another program might give, in any place."""

SAYABLE = tuple(word for word in WORDS if "\udcff" not in word)
"""Those that UTF-8 can hold."""

NAMES = tuple(
    word for word in SAYABLE if word and "/" not in word and len(word.encode()) <= 255 and word not in (".", "..")
)
"""Those that a directory can hold."""

words = st.sampled_from(WORDS)
names = st.sampled_from(NAMES)
anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.sampled_from(SAYABLE),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(SAYABLE), inner, max_size=3),
    max_leaves=6,
)
"""What JSON can say."""


class Called(NamedTuple):
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str


class Hang(BaseException):
    """It did not end in time."""


class Escape(BaseException):
    """It was about to write where nothing of it belongs."""


_allowed: tuple[str, ...] | None = None  # below which a watched command may write; None: nobody is watched
_is_hooked = False

_WRITES = {
    "os.rename": (0, 1),
    "os.mkdir": (0,),
    "os.rmdir": (0,),
    "os.remove": (0,),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.utime": (0,),
}


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _allowed is None:
        return
    if event == "open":
        path, _, flags = arguments
        if isinstance(path, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        _check(event, path, -1)
    elif event in _WRITES:
        descriptors = [each for each in arguments if isinstance(each, int) and each >= 0]
        for position in _WRITES[event]:
            if not isinstance(arguments[position], int):
                _check(
                    event,
                    arguments[position],
                    descriptors[-1] if descriptors and event in ("os.rmdir", "os.remove") else -1,
                )


def _check(event: str, path: str | bytes, descriptor: int) -> None:
    assert _allowed is not None
    text = os.fsdecode(path)
    if descriptor >= 0:
        text = os.path.join(os.readlink(f"/proc/self/fd/{descriptor}"), text)
    where = os.path.join(os.path.realpath(os.path.dirname(os.path.abspath(text))), os.path.basename(text))
    if where.startswith(("/dev/", "/proc/")) or any(where == each or where.startswith(each + "/") for each in _allowed):
        return
    raise Escape(f"{event} {where}")


@contextlib.contextmanager
def watched(*directories: object) -> Iterator[None]:
    """Nothing is written but below these directories."""
    global _allowed, _is_hooked
    if not _is_hooked:
        sys.addaudithook(_audit)  # it stays as long as the process, and sleeps
        _is_hooked = True
    _allowed = tuple(os.path.realpath(str(each)) for each in directories)
    try:
        yield
    finally:
        _allowed = None


@contextlib.contextmanager
def in_time(what: object) -> Iterator[None]:
    """It ends, or the test fails."""

    def fail(_number: int, _frame: FrameType | None) -> None:
        raise Hang(f"not within {TIMEOUT_S:g} s: {what}")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, TIMEOUT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _Terminal(io.TextIOWrapper):
    """What is written to it is shown to a person."""

    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def _streams(stdin: bytes) -> Iterator[list[bytes]]:
    """The three standard streams, as descriptors and as files; what was said is in the list afterwards."""
    said: list[bytes] = []
    files = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr")]
    os.write(files[0], stdin)
    os.lseek(files[0], 0, os.SEEK_SET)
    kept = [os.dup(number) for number in range(3)]
    before = sys.stdin, sys.stdout, sys.stderr
    for number, file in enumerate(files):
        os.dup2(file, number)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, "rb", closefd=False), encoding="utf-8")
    sys.stdout = _Terminal(io.FileIO(1, "wb", closefd=False), encoding="utf-8", write_through=True)
    sys.stderr = io.TextIOWrapper(
        io.FileIO(2, "wb", closefd=False), encoding="utf-8", errors="backslashreplace", write_through=True
    )
    try:
        yield said
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        sys.stdin, sys.stdout, sys.stderr = before
        for number, keep in enumerate(kept):
            os.dup2(keep, number)
            os.close(keep)
        for file in files[1:]:
            os.lseek(file, 0, os.SEEK_SET)
            with open(file, "rb", closefd=False) as stream:
                said.append(stream.read())
        for file in files:
            os.close(file)


def call(arguments: Iterable[str], *directories: object, stdin: bytes = b"", raw: bool = False) -> Called:
    """Run `torc-spool` with these arguments. With `raw` its stdout is a job's own, and not looked at."""
    listed = list(arguments)
    code: object = None
    # as on a terminal: elsewhere click takes out what a terminal would obey
    as_shown = mock.patch("click.utils.should_strip_ansi", lambda *_: False)
    with as_shown, _streams(stdin) as said, in_time(listed), watched(*directories):
        code = cli._call(listed)
    done = Called(code if isinstance(code, int) else -1, *(text.decode(errors="replace") for text in said))
    assert done.code in range(5), f"{listed}: exit code {done.code}"
    assert "Traceback" not in done.stderr, f"{listed}: {done.stderr}"
    for text in (done.stderr, *(() if raw else (done.stdout,))):
        assert not obeyed(text), f"{listed}: the terminal would obey {obeyed(text)!r} in {text!r}"
    return done


def obeyed(text: str) -> set[str]:
    """Characters that a terminal does not show, but obeys: controls, changes of direction, what takes no room."""
    return {char for char in text if char not in "\n" and unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp", "Cs")}
