"""Each call on the disk answers what its caller must expect, and says the rest in one sentence with the path."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from torc_spool import fsops, mounts, trust
from torc_spool.errors import DamagedFile, StorageError, UntrustedSpool


def cases(arguments: str | tuple[str, ...], named: dict[str, Any]) -> pytest.MarkDecorator:
    """Parametrizes by name: each key is the name of a case, each value its row."""
    return pytest.mark.parametrize(arguments, list(named.values()), ids=list(named))


class Kernel:
    """The library of system calls, as far as it is asked for one."""

    def __init__(self, answer: int = 0) -> None:
        self.answer, self.synced = answer, list[str]()

    def syncfs(self, descriptor: int) -> int:
        self.synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        ctypes.set_errno(errno.EIO if self.answer else 0)
        return self.answer


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """No test waits for a disk."""
    kernel = Kernel()
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: kernel)
    return kernel


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets every call of some operations end in an error of the system."""

    def arm(number: int, *operations: str) -> None:
        def fault(operation: str, path: str) -> None:
            if not operations or operation in operations:
                raise OSError(number, os.strerror(number), path)

        monkeypatch.setattr(fsops, "fault", fault)

    return arm


@pytest.fixture
def a(tmp_path: Path) -> Path:
    """A directory with one file, `a/f`, in it."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "f").write_bytes(b"content")
    return tmp_path / "a"


# --- answers and errors, operation by operation

# name: (operation that `fault` is asked for, call with a directory, its answers to ENOENT, EEXIST and ENOTEMPTY)
CALLS: dict[str, tuple[str, Callable[[str], Any], dict[int, Any]]] = {
    "entries": ("list", lambda d: fsops.entries(d), {errno.ENOENT: None}),
    "names": ("list", lambda d: fsops.names(d), {errno.ENOENT: [], errno.ENOTDIR: []}),
    "directories_and_files": (
        "list",
        lambda d: fsops.directories_and_files(d),
        {errno.ENOENT: ([], []), errno.ENOTDIR: ([], [])},
    ),
    "rename": ("rename", lambda d: fsops.rename(f"{d}/f", f"{d}/g"), {errno.ENOENT: False}),
    "rename_to_own": ("rename", lambda d: fsops.rename_to_own(f"{d}/f", d, "g"), {errno.ENOENT: False}),
    "rename_directory": ("rename", lambda d: fsops.rename_directory(d, f"{d}2"), {errno.ENOENT: False}),
    "make_directory": ("mkdir", lambda d: fsops.make_directory(f"{d}/new"), {errno.EEXIST: False}),
    "remove_directory": (
        "rmdir",
        lambda d: fsops.remove_directory(d),
        {errno.ENOENT: True, errno.ENOTEMPTY: False, errno.EEXIST: False},
    ),
    "remove_file": ("unlink", lambda d: fsops.remove_file(f"{d}/f"), {errno.ENOENT: False}),
    "remove_tree": ("rmtree", lambda d: fsops.remove_tree(d), {}),
    "create": ("create", lambda d: fsops.create(f"{d}/new", b"x"), {errno.EEXIST: False}),
    "replace": ("create", lambda d: fsops.replace(d, "f", b"x"), {errno.ENOENT: False}),
    "replace, at its rename": ("rename", lambda d: fsops.replace(d, "f", b"x"), {errno.ENOENT: False}),
    "link": ("link", lambda d: fsops.link(f"{d}/f", f"{d}/g"), dict.fromkeys(range(1, 134), False)),
    "overwrite": ("open", lambda d: fsops.overwrite(f"{d}/f", b"x"), {errno.ENOENT: False}),
    "touch": ("utime", lambda d: fsops.touch(f"{d}/f"), {errno.ENOENT: False}),
    "read": ("open", lambda d: fsops.read(f"{d}/f"), {errno.ENOENT: None}),
    "open_append": ("create", lambda d: os.close(fsops.open_append(f"{d}/f")), {}),
    "reopen_output": ("output", lambda d: os.close(fsops.reopen_output(f"{d}/f")), {}),
    "open_lock": ("open", lambda d: fsops.open_lock(f"{d}/f"), dict.fromkeys(range(1, 134))),
    "open_output": ("output", lambda d: fsops.open_output(f"{d}/new"), {errno.EEXIST: None}),
    "make_output_directory": ("mkdir", lambda d: fsops.make_output_directory(f"{d}/x/y"), {}),
    "sync_filesystem": ("sync", lambda d: fsops.sync_filesystem(d), {}),
    "sync_directory": ("fsync", lambda d: fsops.sync_directory(d), {}),
    "check_directory": ("stat", lambda d: trust.check_directory(d, shared=False), {}),
    "is_network": ("stat", lambda d: mounts.is_network(d), dict.fromkeys(range(1, 134), True)),
}
ERRORS = {
    "gone": errno.ENOENT,
    "gone by a stale handle": errno.ESTALE,
    "exists": errno.EEXIST,
    "not empty": errno.ENOTEMPTY,
    "not a directory": errno.ENOTDIR,
    "full": errno.ENOSPC,
    "over quota": errno.EDQUOT,
    "read-only": errno.EROFS,
    "not permitted": errno.EACCES,
    "an I/O error": errno.EIO,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("number", ERRORS.values(), ids=ERRORS)
def test_an_error_of_the_system_is_an_answer_or_one_sentence(
    call: tuple[str, Callable[[str], Any], dict[int, Any]], number: int, a: Path, fail: Callable[..., None]
) -> None:
    operation, run, answers = call
    answers = answers | ({errno.ESTALE: answers[errno.ENOENT]} if errno.ENOENT in answers else {})
    fail(number, operation)
    if number in answers:
        assert run(str(a)) == answers[number]
        return
    with pytest.raises(StorageError) as caught:
        run(str(a))
    assert caught.value.errno == number
    assert caught.value.path.startswith(str(a))
    assert str(caught.value) == f"cannot {caught.value.operation} {caught.value.path}: {os.strerror(number)}"
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_call_is_counted_once_and_asks_for_the_path_that_it_concerns(
    call: tuple[str, Callable[[str], Any], dict[int, Any]], a: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation, run, _ = call
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(fsops, "fault", lambda *what: asked.append(what))
    before = fsops.calls.copy()
    result = run(str(a))
    if isinstance(result, int) and not isinstance(result, bool):
        os.close(result)
    assert operation in [each for each, _ in asked]
    assert dict(fsops.calls - before) == {each: [o for o, _ in asked].count(each) for each, _ in asked}
    assert all(path.startswith(str(a)) for _, path in asked)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_call_leaves_a_descriptor_open(
    call: tuple[str, Callable[[str], Any], dict[int, Any]], a: Path, fail: Callable[..., None]
) -> None:
    _, run, _ = call
    before = set(os.listdir("/proc/self/fd"))
    result = run(str(a))
    if isinstance(result, int) and not isinstance(result, bool):
        os.close(result)
    assert set(os.listdir("/proc/self/fd")) == before


# --- listings


def test_a_listing_is_fresh_and_has_every_name(a: Path) -> None:
    assert fsops.entries(str(a)) == ["f"]
    (a / ".hidden").touch()
    assert sorted(fsops.entries(str(a)) or ()) == [".hidden", "f"]
    assert fsops.names(str(a)) == ["f"]


def test_a_directory_that_is_not_there_is_told_from_an_empty_one(a: Path) -> None:
    (a / "empty").mkdir()
    assert fsops.entries(str(a / "empty")) == []
    assert fsops.entries(str(a / "none")) is None
    assert fsops.names(str(a / "none")) == []


def test_a_file_in_the_place_of_a_directory_holds_no_names(a: Path) -> None:
    assert fsops.names(str(a / "f")) == []
    with pytest.raises(StorageError, match="Not a directory"):
        fsops.entries(str(a / "f"))


def test_what_may_be_a_directory_is_told_from_files(a: Path) -> None:
    (a / "directory").mkdir()
    (a / ".hidden").mkdir()
    (a / "link").symlink_to("directory")
    os.mkfifo(a / "fifo")
    directories, files = fsops.directories_and_files(str(a))
    assert (sorted(directories), sorted(files)) == (["directory", "link"], ["f", "fifo"])


def test_names_that_are_no_text_survive(a: Path) -> None:
    odd = os.fsdecode(b"\xff\n ")
    fsops.create(f"{a}/{odd}")
    assert odd in fsops.names(str(a))
    assert fsops.rename(f"{a}/{odd}", f"{a}/g")


# --- renames


def test_a_rename_moves_one_name(a: Path) -> None:
    assert fsops.rename(f"{a}/f", f"{a}/g")
    assert fsops.names(str(a)) == ["g"]
    assert not fsops.rename(f"{a}/f", f"{a}/h")


def test_a_rename_into_a_directory_that_is_gone_moves_nothing(a: Path) -> None:
    assert not fsops.rename(f"{a}/f", f"{a}/none/f")
    assert fsops.names(str(a)) == ["f"]


def test_of_two_who_rename_one_file_one_wins(a: Path) -> None:
    assert [fsops.rename(f"{a}/f", f"{a}/{mine}") for mine in ("g", "h")] == [True, False]
    assert fsops.names(str(a)) == ["g"]


def test_a_rename_whose_reply_was_lost_is_known_by_a_listing_of_the_own_directory(
    a: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (a / "own").mkdir()

    def lose_the_reply(operation: str, path: str) -> None:
        if operation == "rename":
            os.rename(path, a / "own" / "f")  # the server has done it, and the client asks again

    monkeypatch.setattr(fsops, "fault", lose_the_reply)
    assert fsops.rename_to_own(f"{a}/f", f"{a}/own", "f")
    assert (a / "own" / "f").read_bytes() == b"content"


def test_a_rename_that_somebody_else_was_faster_with_is_lost(a: Path) -> None:
    (a / "own").mkdir()
    (a / "f").unlink()
    assert not fsops.rename_to_own(f"{a}/f", f"{a}/own", "f")


# --- directories


def test_of_two_who_make_one_directory_one_wins(a: Path) -> None:
    assert [fsops.make_directory(f"{a}/d") for _ in range(2)] == [True, False]


@cases(
    ("mode", "umask", "made"),
    {
        "nobody else may write": (0o755, 0o022, 0o755),
        "a umask that lets the group write does not": (0o755, 0o002, 0o755),
        "a umask that hides": (0o755, 0o077, 0o700),
        "shared, as the umask allows": (0o777, 0o002, 0o775),
    },
)
def test_mode_of_a_new_directory(a: Path, mode: int, umask: int, made: int) -> None:
    before = os.umask(umask)
    try:
        fsops.make_directory(f"{a}/d", mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE((a / "d").stat().st_mode) == made


def test_nobody_makes_a_missing_parent(a: Path) -> None:
    with pytest.raises(StorageError, match="make directory"):
        fsops.make_directory(f"{a}/none/d")


def test_a_directory_is_removed_only_when_nothing_is_in_it(a: Path) -> None:
    assert not fsops.remove_directory(str(a))
    (a / "f").unlink()
    assert fsops.remove_directory(str(a))
    assert fsops.remove_directory(str(a))


def test_what_vanishes_while_a_tree_is_removed_is_no_error(a: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (a / "d").mkdir()
    (a / "d" / "g").touch()
    unlink = os.unlink

    def twice(*arguments: Any, **options: Any) -> None:
        unlink(*arguments, **options)  # as another who sweeps would
        unlink(*arguments, **options)

    monkeypatch.setattr(os, "unlink", twice)
    fsops.remove_tree(str(a))
    fsops.remove_tree(str(a))
    assert not a.exists()


def test_a_tree_that_may_not_be_removed_says_so(a: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(StorageError, match=r"cannot remove .*: Permission denied"):
        fsops.remove_tree(str(a))


def test_a_file_is_removed_once(a: Path) -> None:
    assert [fsops.remove_file(f"{a}/f") for _ in range(2)] == [True, False]
    assert fsops.entries(str(a)) == []


def test_a_directory_for_output_is_made_with_its_parents_and_may_be_there(a: Path) -> None:
    for _ in range(2):
        fsops.make_output_directory(f"{a}/x/y")
    assert (a / "x" / "y").is_dir()
    with pytest.raises(StorageError, match="File exists"):
        fsops.make_output_directory(f"{a}/f")


# --- writing


def test_a_new_file_has_all_its_content(a: Path) -> None:
    data = os.urandom(3 << 20)
    assert fsops.create(f"{a}/new", data)
    assert (a / "new").read_bytes() == data


def test_an_existing_file_is_never_created_anew(a: Path) -> None:
    assert not fsops.create(f"{a}/f", b"other")
    assert (a / "f").read_bytes() == b"content"


def test_a_file_is_never_created_through_a_link(a: Path) -> None:
    (a / "link").symlink_to(a / "elsewhere")
    assert not fsops.create(f"{a}/link", b"x")
    assert not (a / "elsewhere").exists()


def test_a_replacement_is_whole_and_leaves_no_temporary(a: Path) -> None:
    assert fsops.replace(str(a), "f", b"new")
    assert (a / "f").read_bytes() == b"new"
    assert fsops.entries(str(a)) == ["f"]


def test_a_replacement_writes_over_a_temporary_that_was_cut_short(a: Path) -> None:
    (a / ".f.tmp").write_bytes(b"a torn and much longer content")
    assert fsops.replace(str(a), "f", b"new")
    assert (a / "f").read_bytes() == b"new"


def test_a_replacement_is_not_written_through_a_link(a: Path) -> None:
    (a / "victim").write_bytes(b"mine")
    (a / ".f.tmp").symlink_to(a / "victim")
    with pytest.raises(StorageError):
        fsops.replace(str(a), "f", b"new")
    assert (a / "victim").read_bytes() == b"mine"


def short_writes(monkeypatch: pytest.MonkeyPatch, *, room: int) -> None:
    """The disk takes a few bytes at a time, and is full after so many."""
    write, written = os.write, 0

    def few(descriptor: int, data: Any) -> int:
        nonlocal written
        if written >= room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = write(descriptor, bytes(data[:7]))
        written += count
        return count

    monkeypatch.setattr(os, "write", few)


def full_at_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes everything, and says only at the end that it is full: as network filesystems do."""
    close = os.close

    def late(descriptor: int) -> None:
        close(descriptor)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "close", late)


def test_what_the_disk_takes_in_parts_is_whole_in_the_end(a: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short_writes(monkeypatch, room=1000)
    assert fsops.create(f"{a}/new", b"x" * 100)
    assert fsops.replace(str(a), "f", b"y" * 100)
    assert fsops.overwrite(f"{a}/new", b"z" * 50)
    monkeypatch.undo()
    assert (a / "new").read_bytes() == b"z" * 50
    assert (a / "f").read_bytes() == b"y" * 100


@cases("break_disk", {"in the middle": lambda m: short_writes(m, room=20), "at the end": full_at_close})
@cases(
    ("write", "target"),
    {
        "create": (lambda d: fsops.create(f"{d}/new", b"x" * 100), "new"),
        "replace": (lambda d: fsops.replace(d, "f", b"x" * 100), "f"),
    },
)
def test_on_a_full_disk_there_is_the_old_content_or_none(
    break_disk: Callable[[pytest.MonkeyPatch], None],
    write: Callable[[str], bool],
    target: str,
    a: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    break_disk(monkeypatch)
    with pytest.raises(StorageError, match="No space left"):
        write(str(a))
    monkeypatch.undo()
    assert fsops.entries(str(a)) == ["f"]
    assert (a / "f").read_bytes() == b"content"


@cases("break_disk", {"in the middle": lambda m: short_writes(m, room=20), "at the end": full_at_close})
def test_an_overwrite_on_a_full_disk_says_so(
    break_disk: Callable[[pytest.MonkeyPatch], None], a: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_disk(monkeypatch)
    with pytest.raises(StorageError, match="No space left"):
        fsops.overwrite(f"{a}/f", b"x" * 100)


def test_what_is_written_to_an_open_file_says_on_a_full_disk_which(a: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = fsops.open_append(f"{a}/log")
    try:
        fsops.write_all(descriptor, b"one ", f"{a}/log")
        short_writes(monkeypatch, room=0)
        with pytest.raises(StorageError, match=r"cannot write .*/log: No space left"):
            fsops.write_all(descriptor, b"two", f"{a}/log")
        monkeypatch.undo()
    finally:
        fsops.close(descriptor, f"{a}/log")
    assert (a / "log").read_bytes() == b"one "
    with pytest.raises(StorageError, match=r"cannot write .*/log: Bad file descriptor"):
        fsops.close(descriptor, f"{a}/log")


def test_an_overwrite_leaves_nothing_of_what_was_there(a: Path) -> None:
    assert fsops.overwrite(f"{a}/f", b"new")
    assert (a / "f").read_bytes() == b"new"


def test_what_has_another_name_is_not_written_over(a: Path) -> None:
    os.link(a / "f", a / "backup")
    assert not fsops.overwrite(f"{a}/f", b"new")
    assert (a / "backup").read_bytes() == b"content"


def test_a_touch_sets_the_time_to_now(a: Path) -> None:
    os.utime(a / "f", (0, 0))
    assert fsops.touch(f"{a}/f")
    assert (a / "f").stat().st_mtime > 0
    assert not fsops.touch(f"{a}/none")


def test_an_output_file_is_never_used_twice(a: Path) -> None:
    descriptor = fsops.open_output(f"{a}/out")
    assert descriptor is not None
    os.close(descriptor)
    assert fsops.open_output(f"{a}/out") is None


def test_a_link_is_a_second_name_of_one_file(a: Path) -> None:
    assert fsops.link(f"{a}/f", f"{a}/g")
    assert (a / "f").samefile(a / "g")
    assert not fsops.link(f"{a}/f", f"{a}/g")
    assert not fsops.link(f"{a}/none", f"{a}/h")


# --- reading


def test_a_file_is_read_with_its_owner_and_time(a: Path) -> None:
    os.utime(a / "f", (0, 1234.5))
    content = fsops.read(f"{a}/f")
    assert content == fsops.Content(b"content", os.geteuid(), 1234.5)


@pytest.mark.parametrize("limit", [0, 1, 6, 7, 8, 100])
def test_no_more_is_read_than_was_asked_for(a: Path, limit: int) -> None:
    content = fsops.read(f"{a}/f", limit=limit)
    assert content is not None
    assert content.data == b"content"[:limit]


@cases(
    ("told", "found"),
    {
        "a file that grows meanwhile": (3, b"content"),
        "a file that shrinks meanwhile": (50, b"content"),
        "a file whose size nobody knows": (0, b"content"),
    },
)
def test_all_of_a_file_is_read_whatever_its_size_was_said_to_be(
    told: int, found: bytes, a: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lie:
        st_mode, st_uid, st_mtime, st_size = stat.S_IFREG, 0, 0.0, told

    monkeypatch.setattr(os, "fstat", lambda _descriptor: Lie)
    content = fsops.read(f"{a}/f")
    assert content is not None
    assert content.data == found


def test_a_file_that_one_call_does_not_read_is_read_by_several(a: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, size: read(descriptor, min(size, 3)))
    content = fsops.read(f"{a}/f")
    assert content is not None
    assert content.data == b"content"


def test_a_limit_holds_for_what_several_calls_read(a: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, size: read(descriptor, min(size, 2)))
    content = fsops.read(f"{a}/f", limit=5)
    assert content is not None
    assert content.data == b"conte"


def test_an_empty_file_is_read_as_such(a: Path) -> None:
    (a / "empty").touch()
    content = fsops.read(f"{a}/empty")
    assert content is not None
    assert content.data == b""


@cases(
    ("make", "why"),
    {
        "a symbolic link": (lambda path: path.symlink_to("f"), "is a symbolic link"),
        "a link to nothing": (lambda path: path.symlink_to("none"), "is a symbolic link"),
        "a directory": (lambda path: path.mkdir(), "is not a regular file"),
        "a pipe that nobody writes to": (lambda path: os.mkfifo(path), "is not a regular file"),
    },
)
def test_what_is_no_file_of_its_own_is_not_read(make: Callable[[Path], Any], why: str, a: Path) -> None:
    make(a / "odd")
    with pytest.raises(DamagedFile, match=why) as caught:
        fsops.read(f"{a}/odd")
    assert caught.value.path == f"{a}/odd"


def test_a_lock_is_not_taken_through_a_link(a: Path) -> None:
    (a / "lock").symlink_to("f")
    assert fsops.open_lock(f"{a}/lock") is None


# --- trust


@cases(
    ("change", "why"),
    {
        "its group may write": (lambda path: path.chmod(0o775), r"its group or others may write to it \(mode 0775\)"),
        "others may write": (lambda path: path.chmod(0o757), r"its group or others may write to it \(mode 0757\)"),
        "everybody may, but not remove": (lambda path: path.chmod(0o1777), r"\(mode 1777\)"),
    },
)
def test_a_directory_that_others_may_write_to_is_refused_unless_that_is_meant(
    change: Callable[[Path], Any], why: str, a: Path
) -> None:
    trust.check_directory(str(a), shared=False)
    change(a)
    with pytest.raises(UntrustedSpool, match=why):
        trust.check_directory(str(a), shared=False)
    trust.check_directory(str(a), shared=True)


def test_a_directory_of_another_user_is_refused_unless_that_is_meant(a: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(UntrustedSpool, match=f"belongs to user {owner}, not to you"):
        trust.check_directory(str(a), shared=False)
    trust.check_directory(str(a), shared=True)


@pytest.mark.parametrize("shared", [False, True], ids=["private", "shared"])
def test_a_link_or_a_file_in_the_place_of_a_directory_is_refused_in_any_case(shared: bool, a: Path) -> None:
    (a / "link").symlink_to(a)
    with pytest.raises(UntrustedSpool, match="is a symbolic link"):
        trust.check_directory(f"{a}/link", shared=shared)
    with pytest.raises(UntrustedSpool, match="is not a directory"):
        trust.check_directory(f"{a}/f", shared=shared)


# --- syncs, and what kind of filesystem it is


def test_one_call_syncs_the_filesystem_of_a_directory(a: Path, kernel: Kernel) -> None:
    fsops.sync_filesystem(str(a))
    assert kernel.synced == [str(a)]


def test_a_filesystem_that_could_not_be_synced_says_so(a: Path, kernel: Kernel) -> None:
    kernel.answer = -1
    with pytest.raises(StorageError, match=r"cannot sync .*: Input/output error"):
        fsops.sync_filesystem(str(a))


def test_where_one_filesystem_cannot_be_synced_all_are(a: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    monkeypatch.setattr(os, "sync", lambda: synced.append(True))
    fsops.sync_filesystem(str(a))
    assert synced == [True]


def test_a_filesystem_that_cannot_sync_a_directory_is_no_error(a: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(_descriptor: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", cannot)
    fsops.sync_directory(str(a))


def test_a_directory_that_could_not_be_synced_says_so(a: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(StorageError, match="cannot sync"):
        fsops.sync_directory(str(a))


@cases(
    ("table", "network"),
    {
        "on a local disk": ("/dev/sda / ext4 rw 0 0", False),
        "in memory": ("tmpfs {a} tmpfs rw 0 0", False),
        "on NFS": ("/dev/sda / ext4 rw 0 0\nhost:/x {a} nfs4 rw 0 0", True),
        "below NFS": ("host:/x {up} nfs4 rw 0 0\n/dev/sda / ext4 rw 0 0", True),
        "beside NFS": ("/dev/sda / ext4 rw 0 0\nhost:/x {a}2 nfs4 rw 0 0", False),
        "on a filesystem that is mounted over another": ("host:/x {a} lustre rw 0 0\ntmpfs {a} tmpfs rw 0 0", False),
        "on one that nobody knows": ("x / somefs rw 0 0", True),
        "nobody says": ("", True),
    },
)
def test_whether_events_of_other_hosts_are_seen(
    table: str, network: bool, a: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = a / "mounts"
    file.write_text(table.format(a=a, up=a.parent) + "\n" if table else "")
    monkeypatch.setattr(mounts, "open", lambda _path, **options: file.open(**options), raising=False)
    assert mounts.is_network(str(a)) == network


def test_threads_that_create_one_file_agree_on_who_did(a: Path) -> None:
    won: list[bool] = []
    gate = threading.Barrier(4)

    def race() -> None:
        gate.wait()
        won.append(fsops.create(f"{a}/one", b"x"))

    threads = [threading.Thread(target=race) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False, False, False, True]


@pytest.mark.parametrize(("stale", "found"), [(1, b"new"), (3, None)], ids=["replaced", "gone"])
def test_a_file_that_another_client_replaces_while_it_is_read_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stale: int, found: bytes | None
) -> None:
    """NFS says ESTALE of what was opened under the name before."""
    file = tmp_path / "file"
    file.write_bytes(b"new")
    fstat, left = os.fstat, [OSError(errno.ESTALE, "stale")] * stale

    def replaced(descriptor: int) -> os.stat_result:
        if left:
            raise left.pop()
        return fstat(descriptor)

    monkeypatch.setattr(fsops.os, "fstat", replaced)
    content = fsops.read(str(file))
    assert (content.data if content else None) == found
