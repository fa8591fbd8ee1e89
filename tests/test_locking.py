"""The lock of claims keeps others out while it is held, and keeps nobody waiting for long."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import pytest

from torc_spool import fsops, locking, mounts
from torc_spool.locking import PAUSE_S, WAIT_S, ClaimLock

DEADLOCK_S = 60  # how long a test waits for a process that should long have answered


class Clock:
    """Time passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        self.now += seconds
        self.meanwhile()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "lock").touch()
    return str(tmp_path / "lock")


@pytest.fixture
def lock(path: str, clock: Clock) -> Iterator[ClaimLock]:
    lock = ClaimLock(path, clock=clock, sleep=clock.sleep)
    yield lock
    lock.close()


@pytest.fixture
def other(path: str) -> Iterator[ClaimLock]:
    """Somebody else who wants it, and never waits in vain."""
    other = ClaimLock(path)
    yield other
    other.close()


# --- with a clock that stands still


def test_who_is_alone_has_it_at_once(lock: ClaimLock, clock: Clock) -> None:
    with lock.held() as held:
        assert held
    assert clock.slept == []


def test_it_can_be_had_again_and_again_by_two_calls_with_a_path(lock: ClaimLock) -> None:
    before = fsops.calls.total()
    for _ in range(5):
        with lock.held() as held:
            assert held
    assert fsops.calls.total() - before == 2, "it is opened, and its filesystem looked at"


def test_who_finds_it_taken_waits_a_bounded_time_and_goes_on_without_it(
    lock: ClaimLock, other: ClaimLock, clock: Clock
) -> None:
    with other.held() as theirs:
        assert theirs
        with lock.held() as held:
            assert not held
    assert WAIT_S <= sum(clock.slept) <= WAIT_S + 0.1


def test_waiting_asks_often_at_first_and_never_too_rarely(lock: ClaimLock, other: ClaimLock, clock: Clock) -> None:
    with other.held(), lock.held():
        pass
    assert clock.slept[0] < 0.001
    assert max(clock.slept) < 0.1
    assert len(set(clock.slept)) > len(clock.slept) / 2  # no two who wait keep in step


def test_who_waits_has_it_as_soon_as_it_is_given_back(lock: ClaimLock, other: ClaimLock, clock: Clock) -> None:
    theirs = other.held()
    theirs.__enter__()
    clock.meanwhile = lambda: theirs.__exit__(None, None, None) if len(clock.slept) == 3 else None
    with lock.held() as held:
        assert held
    assert len(clock.slept) == 3


def test_what_could_not_be_had_is_not_asked_for_again_for_a_while(
    lock: ClaimLock, other: ClaimLock, clock: Clock
) -> None:
    with other.held(), lock.held():
        pass
    clock.slept.clear()
    with lock.held() as held:
        assert not held
    clock.now += PAUSE_S - 1
    with lock.held() as held:
        assert not held
    assert clock.slept == []
    clock.now += 1
    with lock.held() as held:
        assert held


@pytest.mark.parametrize("kind", ["missing", "a directory", "a link", "in no directory"])
def test_what_is_no_lock_file_costs_nothing_but_order(kind: str, tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "nothing"
    if kind == "a directory":
        path.mkdir()
    elif kind == "a link":
        (tmp_path / "elsewhere").touch()
        path.symlink_to("elsewhere")
    elif kind == "in no directory":
        path = tmp_path / "gone" / "lock"
    with ClaimLock(str(path), clock=clock, sleep=clock.sleep).held() as held:
        assert not held
    assert clock.slept == []


def test_a_lock_file_that_is_there_again_is_used_again(tmp_path: Path, clock: Clock) -> None:
    lock = ClaimLock(str(tmp_path / "lock"), clock=clock, sleep=clock.sleep)
    with lock.held() as held:
        assert not held
    (tmp_path / "lock").touch()
    clock.now += PAUSE_S
    with lock.held() as held:
        assert held
    lock.close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EIO, errno.ESTALE], ids=errno.errorcode.get)
def test_a_filesystem_without_locks_costs_nothing_but_order(
    number: int, lock: ClaimLock, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_descriptor: int, *, blocking: bool) -> bool:
        assert not blocking
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(filelock, "lock_descriptor", fails)
    with lock.held() as held:
        assert not held
    assert clock.slept == []


def test_a_lock_that_cannot_be_given_back_is_dropped(
    lock: ClaimLock, other: ClaimLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(filelock, "unlock_descriptor", fails)
        with lock.held() as held:
            assert held
    with other.held() as theirs:
        assert theirs
    with lock.held() as held:
        assert held


def test_who_fails_while_he_holds_it_gives_it_back(lock: ClaimLock, other: ClaimLock) -> None:
    with pytest.raises(RuntimeError, match="of his own"), lock.held():
        raise RuntimeError("of his own")
    with other.held() as theirs:
        assert theirs


def test_who_closes_it_gives_it_back_and_leaves_no_descriptor(path: str, other: ClaimLock) -> None:
    before = set(os.listdir("/proc/self/fd"))
    lock = ClaimLock(path)
    with lock.held() as held:
        assert held
        lock.close()
        with other.held() as theirs:
            assert theirs
    lock.close()
    other.close()
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_command_that_is_started_meanwhile_does_not_hold_it(lock: ClaimLock, other: ClaimLock) -> None:
    with lock.held() as held:
        assert held
        command = subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False)
    try:
        with other.held() as theirs:
            assert theirs
    finally:
        command.communicate(timeout=DEADLOCK_S)


# --- with real processes

# its clock stands still, so that no busy machine makes anybody give up
HOLDER = """
import sys
from torc_spool.locking import ClaimLock
with ClaimLock(sys.argv[1], clock=lambda: 1000.0).held() as held:
    print("held" if held else "not held", flush=True)
    sys.stdin.read()
"""

# two witnesses: a file that only one may make, and a count that loses turns when two write it at once
WORKER = """
import os, sys
from torc_spool.locking import ClaimLock
path, turns = sys.argv[1], int(sys.argv[2])
lock = ClaimLock(path, clock=lambda: 1000.0)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(turns):
    with lock.held() as held:
        assert held
        os.close(os.open(path + ".inside", os.O_CREAT | os.O_EXCL))
        with open(path + ".count", "r+") as file:
            count = int(file.read())
            file.seek(0)
            file.write(str(count + 1))
        os.unlink(path + ".inside")
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def holder(path: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    process = start(HOLDER, path)
    assert said(process) == "held"
    yield process
    process.kill()
    process.communicate(timeout=DEADLOCK_S)


def test_processes_exclude_each_other_and_each_has_all_its_turns(path: str) -> None:
    Path(path + ".count").write_text("0")
    turns, workers = 50, [start(WORKER, path, "50") for _ in range(3)]
    try:
        for worker in workers:
            assert said(worker) == "ready"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
        for worker in workers:
            worker.communicate(timeout=DEADLOCK_S)
            assert worker.returncode == 0
    finally:
        for worker in workers:
            worker.kill()
    assert Path(path + ".count").read_text() == str(turns * len(workers))


def test_a_holder_that_was_killed_holds_nothing(holder: subprocess.Popen[str], lock: ClaimLock, clock: Clock) -> None:
    holder.kill()
    holder.wait(timeout=DEADLOCK_S)
    with lock.held() as held:
        assert held
    assert clock.slept == []


def test_a_holder_that_is_frozen_costs_one_wait_and_then_nothing_but_order(
    holder: subprocess.Popen[str], lock: ClaimLock, clock: Clock
) -> None:
    holder.send_signal(signal.SIGSTOP)
    with lock.held() as held:
        assert not held
    assert WAIT_S <= sum(clock.slept) <= WAIT_S + 0.1
    clock.slept.clear()
    for _ in range(100):
        with lock.held() as held:
            assert not held
    assert clock.slept == []
    holder.send_signal(signal.SIGCONT)
    holder.communicate("", timeout=DEADLOCK_S)
    clock.now += PAUSE_S
    with lock.held() as held:
        assert held


def test_a_lock_whose_calls_do_not_come_back_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on NFS 3, where the server's lockd cannot be reached."""
    path = tmp_path / "lock"
    path.touch()
    answers, called = threading.Event(), []

    def hang(descriptor: int, **_: object) -> bool:
        called.append(descriptor)
        return answers.wait(60)

    monkeypatch.setattr("filelock.lock_descriptor", hang)
    monkeypatch.setattr(mounts, "is_network", lambda _path: True)
    monkeypatch.setattr(locking, "WAIT_S", 0.0)
    monkeypatch.setattr(locking, "HUNG_S", 0.05)
    lock = ClaimLock(str(path))
    for _ in range(2):
        with lock.held() as is_ours:
            assert not is_ours
    assert len(called) == 1, "it is not asked for again"
    answers.set()  # the server is back: the thread lets go of what it got
    for thread in threading.enumerate():
        if thread.daemon and thread is not threading.main_thread():
            thread.join(60)
    with pytest.raises(OSError):
        os.fstat(called[0])
