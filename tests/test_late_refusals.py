"""What is refused may have been done all the same: a reply was lost, or a disk says only at the end that it is full."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import spooltools as tools
from spooltools import Hand, Wanted

from torc_spool import actor as actors
from torc_spool import fsops, reinitialize, spawn
from torc_spool.errors import StorageError
from torc_spool.spawn import Environment, Order
from torc_spool.spool import Spool
from torc_spool.starter import BASH


def refuse_renames(patch: pytest.MonkeyPatch, to: str, error: int, *, done: bool = True) -> None:
    """Those to names that hold this word, after the fact or instead of it."""
    rename = os.rename

    def refused(source: str, target: str) -> None:
        if to in target:
            if done:
                rename(source, target)
            raise OSError(error, os.strerror(error), source)
        rename(source, target)

    patch.setattr(os, "rename", refused)


def closing(real: Callable[[int], None]) -> Callable[[int], None]:
    def close(descriptor: int) -> None:
        real(descriptor)
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    return close


@pytest.mark.parametrize("error", [errno.ENOENT, errno.EIO])
def test_a_workflow_that_was_published_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """s7: who was told that it had failed submitted it again, and all of it ran twice."""
    spool = str(tmp_path / "spool")
    refuse_renames(monkeypatch, "/1-test", error)
    assert tools.submit(spool, tools.workflow({"j1": Wanted()})) == 1
    assert tools.check_spool(spool) == [1]


def test_a_workflow_that_was_not_published_is_not_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = str(tmp_path / "spool")
    refuse_renames(monkeypatch, "/1-test", errno.EIO, done=False)
    with pytest.raises(StorageError):
        tools.submit(spool, tools.workflow({"j1": Wanted()}))
    assert tools.check_spool(spool) == []


def test_a_file_whose_creation_has_no_reply_is_not_published_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """s4: asked once more, the filesystem says that it exists; nobody has written to it."""
    spool, real = str(tmp_path / "spool"), os.open

    def asked_twice(path: str, flags: int, mode: int = 0o777, **more: int) -> int:
        if flags & os.O_EXCL and "-j1.json" in path:
            os.close(real(path, flags, mode))
        return real(path, flags, mode, **more)

    monkeypatch.setattr(os, "open", asked_twice)
    with pytest.raises(StorageError, match="exists"):
        tools.submit(spool, tools.workflow({"j1": Wanted()}))
    assert tools.check_spool(spool) == []


@pytest.mark.parametrize("error", [errno.ENOENT, errno.EIO])
def test_a_revision_that_was_published_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """z6: all was put back, and the definitions had changed."""
    spool = str(tmp_path / "spool")
    tools.submit(spool, tools.workflow({"j1": Wanted("true")}))
    refuse_renames(monkeypatch, "/revision-1", error)
    changed = tools.workflow({"j1": Wanted("echo anew")})
    rows = reinitialize.reinitialize(tools.open_workflow(spool), (changed, tools.VERBATIM))
    assert [row.reasons for row in rows] == [["its definition has changed"]]
    assert tools.open_workflow(spool).revisions.number == 1
    tools.check_invariants(f"{spool}/1-test")


def test_a_process_that_was_made_is_known_though_its_output_cannot_be_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over its quota NFS refuses the close of a file that the process has begun to fill. It was taken for one that had
    not been made, and made once more a second later."""
    output = str(tmp_path / "out")

    def prepare() -> tuple[int, int, int]:
        return 0, *(os.open(f"{output}{number}", os.O_WRONLY | os.O_CREAT) for number in (1, 2))

    order = Order(BASH, ("bash", "-c", "exit 7"), Environment({}, {}), {}, str(tmp_path), prepare)
    with monkeypatch.context() as patch:
        patch.setattr(spawn.os, "close", closing(os.close))
        pid = spawn.spawn(order, order.prepare())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_who_cannot_close_its_journal_does_not_say_that_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = str(tmp_path / "spool")
    tools.submit(spool, tools.workflow({"j1": Wanted()}))
    hand = Hand(tools.open_workflow(spool))
    journal, real = hand.actor._journal, os.close

    def close(descriptor: int) -> None:
        (closing(real) if descriptor == journal else real)(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(actors.os, "close", close)
        assert hand.actor.retire()
    assert "end.json" not in fsops.names(hand.actor.directory)
    assert Spool(spool).open(1).owner_directories() == {}
