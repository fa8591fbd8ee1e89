"""New contents for files in a directory of one's own, without making and removing a file for each.

Making and removing files is what is dear on many filesystems. So the file that a new content replaces is kept, under
a second name, and the next content is written into it. A file is only ever written to while no job's name leads to it.
"""

from __future__ import annotations

from torc_spool import fsops
from torc_spool.errors import StorageError

_SPARES = (".spare0", ".spare1")


class Scratch:
    """Replaces contents in one directory; `clear` it before the directory is removed."""

    def __init__(self, directory: str, mode: int) -> None:
        self._directory, self._mode = directory, mode
        self._spare: str | None = None
        self._can_link = True
        self._has_linked = False  # then files may lie there, whatever the filesystem says in between

    def replace(self, name: str, data: bytes) -> bool:
        """Put a new content in place of a file: written aside (f1), then one rename (f2).

        False when the file or the directory is gone. Raises StorageError.
        """
        directory, spare = self._directory, self._spare
        keep = _SPARES[spare == _SPARES[0]]
        kept = self._can_link and fsops.link(f"{directory}/{name}", f"{directory}/{keep}")
        try:
            if kept and spare is not None and fsops.overwrite(f"{directory}/{spare}", data):
                done = fsops.rename(f"{directory}/{spare}", f"{directory}/{name}")
            else:
                done = fsops.replace(directory, name, data, self._mode)
                if spare is not None:
                    fsops.remove_file(f"{directory}/{spare}")
        except StorageError:
            self.clear()
            raise
        self._has_linked = self._has_linked or kept
        if kept and done:
            self._spare = keep
        elif not kept:
            self._can_link = self._has_linked  # what worked once was refused for another reason
            self.clear()
        return done

    def clear(self) -> None:
        """Remove what is kept."""
        if self._has_linked:
            for name in _SPARES:
                fsops.remove_file(f"{self._directory}/{name}")
        self._spare = None
