"""Names that regular expressions find."""

from __future__ import annotations

import re
import signal
import threading
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from torc_spool.complaints import quote
from torc_spool.errors import SpecError

SEARCH_S = 2.0  # processor time for one expression, and for each name:
SEARCH_NAME_S = 20e-6  # common ones take less than a twentieth of it


class Names:
    """The names of one kind. Each expression is held against them once, however many jobs have it."""

    def __init__(self, names: Collection[str], section: str) -> None:
        self.names, self.section = names, section
        self._found: dict[str, list[str]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def found(self, pattern: str, where: str) -> list[str]:
        """All names in which the expression is found, in their order. Raises SpecError when there is none."""
        found = self._found.get(pattern)
        if found is None:
            found = self._found[pattern] = _search(compiled(pattern, where), self.names, where)
        if not found:
            raise SpecError(
                f"{quote(pattern)} is found in none of the names of the {self.section}; correct or remove it",
                where=where,
            )
        return found


def compiled(pattern: str, where: str) -> re.Pattern[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a later Python may read in another way
            return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise SpecError(f"{quote(pattern)} is not a regular expression: {error}", where=where) from error


class _TooLongError(Exception):
    pass


def _search(expression: re.Pattern[str], names: Collection[str], where: str) -> list[str]:
    """Some expressions, such as `(a+)+$`, need longer for a name of a few dozen letters than the sun will shine."""
    search, most = expression.search, SEARCH_S + SEARCH_NAME_S * len(names)
    try:
        with _bounded(most):
            return [name for name in names if search(name)]
    except _TooLongError as error:
        raise SpecError(
            f"{quote(expression.pattern)} cannot be looked for in {most:.0f} s: it can be found in too many ways; "
            "write it without repeats of what repeats itself",
            where=where,
        ) from error


@contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    """Raise _TooLongError after so much processor time; not in other threads, which no signal reaches."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: object) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGVTALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
