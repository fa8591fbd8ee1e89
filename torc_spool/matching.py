"""Names that regular expressions find."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection

from torc_spool.complaints import quote
from torc_spool.errors import SpecError


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
            search = compiled(pattern, where).search
            found = self._found[pattern] = [name for name in self.names if search(name)]
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
