"""The only module that opens, renames, lists, syncs or removes a spool file.

Each function is one step of `docs/spool-format.md`. Calls are counted, and each asks `fault` first, so that tests
can stop the world, or fail, at the n-th of them. An OSError that a caller must expect (the file is gone, the name
exists) is an answer; every other becomes a StorageError with the path in it.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple, TypeVar

from torc_spool.errors import DamagedFile, StorageError

T = TypeVar("T")

GONE = (errno.ENOENT, errno.ESTALE)
_NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST)
_READS = 3  # of a file that is replaced meanwhile, and of what a server that has just come back calls stale

calls: Counter[str] = Counter()
"""How often each kind of call with a path was made by this process."""

fault: Callable[[str, str], None] | None = None
"""Called with (operation, path) before each call; tests set it to fail or to kill the process there."""


def about_to(operation: str, path: str) -> None:
    """Said before each call with a path: it is counted, and tests may stop it."""
    calls[operation] += 1
    if fault is not None:
        fault(operation, path)


def _again(operation: str, path: str, call: Callable[[], T]) -> T:
    """One call, made again when it says ESTALE: so does a server of what is there when it has just come back."""
    for _ in range(_READS - 1):
        try:
            about_to(operation, path)
            return call()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    about_to(operation, path)
    return call()


@contextmanager
def translated(operation: str, path: str) -> Iterator[None]:
    """Raises StorageError where the system refuses what is done inside."""
    try:
        yield
    except OSError as error:
        raise StorageError(operation, path, error.errno) from error


def entries(path: str) -> list[str] | None:
    """All names in a directory, listed afresh by its path; None when there is no such directory."""
    try:
        return _again("list", path, lambda: os.listdir(path))
    except OSError as error:
        if error.errno in GONE:
            return None
        raise StorageError("list", path, error.errno) from error


def names(path: str) -> list[str]:
    """The names that count: none that begins with a dot, none at all in a directory that is not there."""
    try:
        return [name for name in entries(path) or () if not name.startswith(".")]
    except StorageError as error:
        if error.errno != errno.ENOTDIR:
            raise
        return []  # a foreign file where a directory would be: nothing lies in it


class Listed(NamedTuple):
    """The names in a directory that count, by what they are."""

    directories: list[str]
    files: list[str]
    links: list[str]


def listed(path: str) -> Listed:
    """None of any kind where there is no such directory."""
    found = Listed([], [], [])
    try:
        about_to("list", path)
        with os.scandir(path) as scan:
            for entry in scan:
                if not entry.name.startswith("."):
                    found[2 if entry.is_symlink() else not entry.is_dir(follow_symlinks=False)].append(entry.name)
    except OSError as error:
        if error.errno not in (*GONE, errno.ENOTDIR):
            raise StorageError("list", path, error.errno) from error
    return found


def directories_and_files(path: str) -> tuple[list[str], list[str]]:
    """The names that count: what may be a directory (a symbolic link may), and what is none."""
    found = listed(path)
    return found.directories + found.links, found.files


def rename(source: str, target: str) -> bool:
    """Move one name. False when the source (or the directory of the target) is gone."""
    try:
        _again("rename", source, lambda: os.rename(source, target))
    except OSError as error:
        if error.errno in GONE:
            return False
        raise StorageError("rename", source, error.errno) from error
    return True


def rename_to_own(source: str, directory: str, name: str) -> bool:
    """Move a file into a directory that only the caller fills. ENOENT is no proof of a loss (a lost reply on NFS):
    a fresh listing of the own directory is."""
    return rename(source, f"{directory}/{name}") or name in names(directory)


def rename_directory(source: str, target: str) -> bool:
    """Move a directory to a name that does not exist. False when the source is gone."""
    return rename(source, target)


def make_directory(path: str, mode: int = 0o755) -> bool:
    """False when the name exists. The mode is further cut by the umask."""
    try:
        about_to("mkdir", path)
        os.mkdir(path, mode)
    except FileExistsError:
        return False
    except OSError as error:
        raise StorageError("make directory", path, error.errno) from error
    return True


def remove_directory(path: str) -> bool:
    """False while it holds anything; True when it is gone, whoever removed it."""
    try:
        about_to("rmdir", path)
        os.rmdir(path)
    except OSError as error:
        if error.errno in _NOT_EMPTY:
            return False
        if error.errno not in GONE:
            raise StorageError("remove directory", path, error.errno) from error
    return True


def remove_file(path: str) -> bool:
    """False when it is gone already."""
    try:
        about_to("unlink", path)
        os.unlink(path)
    except OSError as error:
        if error.errno in GONE:
            return False
        raise StorageError("remove", path, error.errno) from error
    return True


def remove_tree(path: str) -> None:
    """Remove what nobody refers to any more (staging or trash). What is gone already is no error."""
    import shutil

    with translated("remove", path):
        about_to("rmtree", path)
        try:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                os.unlink(path)  # rmtree would open it, and a pipe would let it wait for ever
                return
        except FileNotFoundError:
            return
        if sys.version_info >= (3, 12):
            shutil.rmtree(path, onexc=_raise_unless_gone)
        else:
            shutil.rmtree(path, onerror=lambda function, name, info: _raise_unless_gone(function, name, info[1]))


def _raise_unless_gone(_function: object, _path: object, error: BaseException) -> None:
    if not (isinstance(error, OSError) and error.errno in GONE):
        raise error


def create(path: str, data: bytes = b"", mode: int = 0o644) -> bool:
    """Make a new file with this content. False when the name exists; a file that could not be written is removed."""
    try:
        about_to("create", path)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    except FileExistsError:
        return False
    except OSError as error:
        raise StorageError("create", path, error.errno) from error
    _fill(descriptor, data, path)
    return True


def _fill(descriptor: int, data: bytes, path: str) -> None:
    """Write a new file and close it; one that could not be written is removed, if it can be. Raises StorageError."""
    try:
        _write_and_close(descriptor, data)
    except OSError as error:
        with suppress(OSError):
            os.unlink(path)
        raise StorageError("write", path, error.errno) from error


def _write_and_close(descriptor: int, data: bytes) -> None:
    try:
        _write_all(descriptor, data)
    finally:
        os.close(descriptor)  # a network filesystem may say only here that it is full


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_all(descriptor: int, data: bytes, path: str) -> None:
    """Write to an open file of one's own; `path` is for the message. Raises StorageError."""
    with translated("write", path):
        _write_all(descriptor, data)


def close(descriptor: int, path: str) -> None:
    """Close a file that was written to; `path` is for the message. Raises StorageError."""
    with translated("write", path):
        os.close(descriptor)


def replace(directory: str, name: str, data: bytes, mode: int = 0o644) -> bool:
    """Put a new content in place of a file in a directory of one's own: temporary, then rename.

    False when the directory is gone. The temporary of an earlier try that was cut short is overwritten.
    """
    temporary = f"{directory}/.{name}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = _again("create", temporary, lambda: os.open(temporary, flags, mode))
    except OSError as error:
        if error.errno in GONE:
            return False
        raise StorageError("create", temporary, error.errno) from error
    _fill(descriptor, data, temporary)
    return rename(temporary, f"{directory}/{name}")


def link(source: str, target: str) -> bool:
    """Give a file a second name. False when that cannot be: the source is gone, the name exists, no hard links here."""
    try:
        about_to("link", source)
        os.link(source, target)
    except OSError:
        return False
    return True


def overwrite(path: str, data: bytes) -> bool:
    """Write over an existing file that nobody else knows. Raises StorageError.

    False when it is gone, or has another name somewhere (a backup by hard links): it is left as it is then.
    """
    try:
        about_to("open", path)
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in GONE:
            return False
        raise StorageError("open", path, error.errno) from error
    with translated("write", path):
        try:
            if os.fstat(descriptor).st_nlink != 1:
                return False
            _write_all(descriptor, data)
            os.ftruncate(descriptor, len(data))
        finally:
            os.close(descriptor)
    return True


def touch(path: str) -> bool:
    """Set the file's time to the filesystem's now. False when it is gone."""
    try:
        about_to("utime", path)
        os.utime(path)
    except OSError as error:
        if error.errno in GONE:
            return False
        raise StorageError("touch", path, error.errno) from error
    return True


def touched(path: str) -> float | None:
    """The filesystem's now: a touch, then what `fstat` says of the opened file. None when it is gone.

    On NFS the server sets that time, and an open asks for it afresh; a `stat` might be answered from a cache.
    """
    if not touch(path):
        return None
    content = read(path, limit=1)
    return None if content is None else content.mtime


class Content(NamedTuple):
    """A file's bytes with what `fstat` says of the open file."""

    data: bytes
    owner: int
    mtime: float


Read = Callable[..., Content | None]


def look(path: str, *, limit: int = 1 << 40) -> Content | None:
    """As `read`, for who only looks and waits for no better times: DamagedFile too for what the disk cannot give."""
    try:
        return read(path, limit=limit)
    except StorageError as error:
        if error.errno != errno.EIO:
            raise
        raise DamagedFile(path, f"cannot be read ({os.strerror(errno.EIO)})") from error


def read(path: str, *, limit: int = 1 << 40) -> Content | None:
    """The content of a regular file, or its first `limit` bytes, never through a symbolic link; None when it is gone.

    Raises DamagedFile for anything that is not a regular file.
    """
    for _ in range(_READS):
        try:
            return _read_once(path, limit)
        except StorageError as error:
            if error.errno != errno.ESTALE:
                raise
            # another NFS client put a new file in its place after we had opened it: the name has that one
    return None


def _read_once(path: str, limit: int) -> Content | None:
    try:
        about_to("open", path)
        # O_NONBLOCK: a FIFO in the place of a file must not hang us
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        if error.errno in (errno.ELOOP, errno.ENXIO):
            why = "is a symbolic link" if error.errno == errno.ELOOP else "is not a regular file"
            raise DamagedFile(path, why) from error
        raise StorageError("open", path, error.errno) from error
    try:
        with translated("read", path):
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise DamagedFile(path, "is not a regular file")
            data = _read_up_to(descriptor, limit, status.st_size)
            return Content(data, status.st_uid, status.st_mtime)
    finally:
        os.close(descriptor)


def _read_up_to(descriptor: int, limit: int, size: int) -> bytes:
    data = os.read(descriptor, min(limit, size + 1))
    if len(data) in (size, limit):
        return data  # the common case: one call
    # it grows or shrinks meanwhile, or is larger than one call reads
    parts, rest = [data], limit - len(data)
    while part := os.read(descriptor, min(rest, 1 << 20)):
        parts.append(part)
        rest -= len(part)
    return b"".join(parts)


def open_append(path: str, mode: int = 0o644) -> int:
    """A descriptor for appending, for a file that this process alone writes. Raises StorageError."""
    with translated("open", path):
        about_to("create", path)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, mode)


def open_lock(path: str) -> int | None:
    """A descriptor for locking; None when the file is gone or may not be opened."""
    try:
        about_to("open", path)
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None


def open_output(path: str) -> int | None:
    """A new file for a command's output; None when the name exists. Raises StorageError."""
    try:
        about_to("output", path)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return None
    except OSError as error:
        raise StorageError("create", path, error.errno) from error


def reopen_output(path: str) -> int:
    """An output file that this attempt made; what is written comes after what is there. Raises StorageError."""
    with translated("open", path):
        about_to("output", path)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)


def make_output_directory(path: str) -> None:
    """Make a directory of the user's choice, with its parents. Raises StorageError."""
    with translated("make directory", path):
        about_to("mkdir", path)
        os.makedirs(path, exist_ok=True)


def sync_filesystem(path: str) -> None:
    """Bring everything of the filesystem that holds `path` to its disk: one call for any number of files."""
    import ctypes

    with translated("sync", path):
        about_to("sync", path)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
            if syncfs is None:
                os.sync()
            elif syncfs(descriptor) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
        finally:
            os.close(descriptor)


def sync_directory(path: str) -> None:
    """Make the names in a directory durable. Filesystems that cannot sync a directory say EINVAL: no error."""
    with translated("sync", path):
        about_to("fsync", path)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        finally:
            os.close(descriptor)
