"""Whatever may have changed something wakes the one that waits; what concerns nobody does not."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from torc_spool import wakeup as wakeups
from torc_spool.wakeup import STOP_SIGNALS, Wakeup

DEADLINE_S = 30.0  # how long something may take that happens at once on any machine that works
IN_CREATE, IN_MOVED_TO, IN_DELETE_SELF, IN_DONT_FOLLOW = 0x100, 0x80, 0x400, 0x2000000


class Counting(Wakeup):
    """Counts what wakes it up, apart from signals."""

    pokes = 0

    def poke(self) -> None:
        self.pokes += 1
        super().poke()


@pytest.fixture
def stops() -> list[int]:
    return []


@pytest.fixture
def wakeup(stops: list[int]) -> Iterator[Counting]:
    with Counting(stops.append) as wakeup:
        yield wakeup


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "watched").mkdir()
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "watched"


def wait_until(wakeup: Wakeup, happened: Callable[[], bool]) -> bool:
    """Sleep as a runner does, until something has happened. False when it never does."""
    deadline = time.monotonic() + DEADLINE_S
    while not happened():
        if time.monotonic() >= deadline:
            return False
        wakeup.wait(deadline - time.monotonic())
    return True


def changed(wakeup: Wakeup) -> Callable[[], set[str]]:
    """All directories that it has told of so far."""
    found: set[str] = set()

    def look() -> set[str]:
        found.update(wakeup.changes())
        return found

    return look


def woken(wakeup: Wakeup) -> None:
    """Wait for ever, as long as a test may: it has to be woken up."""
    before = time.monotonic()
    wakeup.wait(DEADLINE_S)
    assert time.monotonic() - before < DEADLINE_S, "nothing woke it up"


def is_readable(wakeup: Wakeup) -> bool:
    return bool(select.select([wakeup._read], [], [], 0)[0])


# --- signals and children


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: number.name)
def test_a_signal_to_stop_wakes_it_and_is_told(number: signal.Signals, wakeup: Wakeup, stops: list[int]) -> None:
    os.kill(os.getpid(), number)
    woken(wakeup)
    assert stops == [number]


def test_every_signal_to_stop_is_told(wakeup: Wakeup, stops: list[int]) -> None:
    for _ in range(2):
        signal.raise_signal(signal.SIGTERM)
    assert stops == [signal.SIGTERM] * 2


def test_a_signal_of_another_process_wakes_it(wakeup: Wakeup, stops: list[int]) -> None:
    with subprocess.Popen(["sh", "-c", f"read _; kill -TERM {os.getpid()}"], stdin=subprocess.PIPE) as sender:
        assert sender.stdin is not None
        sender.stdin.write(b"\n")
        sender.stdin.flush()
        assert wait_until(wakeup, lambda: bool(stops))
    assert stops == [signal.SIGTERM]


def test_the_end_of_a_child_wakes_it_and_asks_nobody_to_stop(wakeup: Wakeup, stops: list[int]) -> None:
    child = subprocess.Popen(["true"])
    woken(wakeup)
    child.wait(timeout=DEADLINE_S)
    assert stops == []


def test_a_signal_that_is_ignored_stays_so(stops: list[int]) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Wakeup(stops.append):
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert stops == []


def test_afterwards_everything_is_as_it_was(tmp_path: Path, stops: list[int]) -> None:
    with Wakeup(stops.append) as first:
        first.watch([str(tmp_path)])  # what watchdog keeps for the process is there now
    numbers = (*STOP_SIGNALS, signal.SIGCHLD)
    before = [signal.getsignal(number) for number in numbers]
    descriptors, threads = set(os.listdir("/proc/self/fd")), set(threading.enumerate())
    with Wakeup(stops.append) as wakeup:
        wakeup.watch([str(tmp_path)])
        assert [signal.getsignal(number) for number in numbers] != before
    assert [signal.getsignal(number) for number in numbers] == before
    assert set(os.listdir("/proc/self/fd")) <= descriptors
    assert {thread for thread in threading.enumerate() if not thread.daemon} <= threads
    assert signal.set_wakeup_fd(-1) == -1


# --- waiting


def test_who_was_poked_before_he_slept_does_not_sleep(wakeup: Wakeup) -> None:
    wakeup.poke()
    woken(wakeup)
    assert not is_readable(wakeup)


def test_any_number_of_pokes_is_one_awakening(wakeup: Wakeup) -> None:
    for _ in range(70_000):  # more than a pipe holds
        wakeup.poke()
    woken(wakeup)
    assert not is_readable(wakeup)


def test_another_thread_can_wake_it(wakeup: Wakeup) -> None:
    thread = threading.Thread(target=wakeup.poke)
    thread.start()
    woken(wakeup)
    thread.join()


@pytest.mark.parametrize("seconds", [0.0, -1.0, 0.001])
def test_it_sleeps_no_longer_than_it_is_told(seconds: float, wakeup: Wakeup) -> None:
    wakeup.wait(seconds)
    assert wakeup.changes() == set()


def test_a_poke_that_comes_too_late_is_no_error(stops: list[int]) -> None:
    with Wakeup(stops.append) as wakeup:
        pass
    wakeup.poke()


# --- file events


@pytest.mark.parametrize("arrival", ["created", "made", "moved here", "linked", "renamed within"])
def test_what_appears_in_a_watched_directory_wakes_it(arrival: str, directory: Path, wakeup: Wakeup) -> None:
    (directory / "old").touch()
    (directory.parent / "elsewhere" / "file").touch()
    wakeup.watch([str(directory)])
    look = changed(wakeup)
    if arrival == "created":
        (directory / "new").touch()
    elif arrival == "made":
        (directory / "new").mkdir()
    elif arrival == "moved here":
        os.rename(directory.parent / "elsewhere" / "file", directory / "new")
    elif arrival == "linked":
        os.link(directory.parent / "elsewhere" / "file", directory / "new")
    else:
        os.rename(directory / "old", directory / "new")
    assert wait_until(wakeup, lambda: look() == {str(directory)})


def test_what_leaves_or_changes_wakes_nobody(directory: Path, wakeup: Counting) -> None:
    for name in ("leaves", "is removed", "is written to", "is replaced"):
        (directory / name).touch()
    (directory / "is empty").mkdir()
    wakeup.watch([str(directory)])
    look = changed(wakeup)
    os.rename(directory / "leaves", directory.parent / "elsewhere" / "file")
    (directory / "is removed").unlink()
    (directory / "is written to").write_text("x")
    (directory / "is written to").chmod(0o600)
    (directory / "is empty").rmdir()
    os.utime(directory / "is written to")
    (directory / ".hidden").touch()
    os.rename(directory / ".hidden", directory / ".hidden too")
    (directory / "new").touch()  # events of one directory come in order
    assert wait_until(wakeup, lambda: look() == {str(directory)})
    assert wakeup.pokes == 1


def test_the_kernel_is_asked_for_arrivals_alone(directory: Path, wakeup: Wakeup) -> None:
    def masks() -> list[int]:
        found = []
        for descriptor in os.listdir("/proc/self/fdinfo"):
            try:
                lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
            except FileNotFoundError:  # the one that lists them
                continue
            words = [line.split() for line in lines if line.startswith("inotify ")]
            found += [int(dict(word.split(":") for word in each[1:])["mask"], 16) for each in words]
        return found

    before = masks()
    wakeup.watch([str(directory)])
    (mask,) = set(masks()) - set(before) or set(masks())
    assert mask & ~IN_DONT_FOLLOW == IN_CREATE | IN_MOVED_TO | IN_DELETE_SELF


def test_an_arrival_is_told_of_although_something_has_just_left(directory: Path, wakeup: Wakeup) -> None:
    wakeup.watch([str(directory)])
    for number in range(5):
        look = changed(wakeup)
        path = directory / f"job{number}"
        path.touch()
        assert wait_until(wakeup, lambda look=look: look() == {str(directory)})
        os.rename(path, directory.parent / "elsewhere" / "claimed")


def test_each_directory_is_told_of_by_its_name(tmp_path: Path, wakeup: Wakeup) -> None:
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path in paths:
        path.mkdir()
    wakeup.watch(map(str, paths))
    look = changed(wakeup)
    (paths[0] / "new").touch()
    (paths[2] / "new").touch()
    assert wait_until(wakeup, lambda: len(look()) == 2)
    assert look() == {str(paths[0]), str(paths[2])}


def test_what_was_told_is_told_once(directory: Path, wakeup: Wakeup) -> None:
    wakeup.watch([str(directory)])
    (directory / "new").touch()
    assert wait_until(wakeup, lambda: wakeup.changes() == {str(directory)})
    assert wakeup.changes() == set()


def test_a_directory_that_was_not_watched_has_to_be_looked_at(tmp_path: Path, wakeup: Wakeup) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert not wakeup.watch([])
    assert wakeup.watch([str(tmp_path / "a")])
    assert not wakeup.watch([str(tmp_path / "a")])
    assert wakeup.watch([str(tmp_path / "a"), str(tmp_path / "b")])


def test_a_directory_that_is_gone_keeps_nobody_from_watching_others(directory: Path, wakeup: Wakeup) -> None:
    assert wakeup.watch([str(directory / "none"), str(directory)])
    look = changed(wakeup)
    (directory / "new").touch()
    assert wait_until(wakeup, lambda: look() == {str(directory)})


def test_a_watched_directory_that_goes_away_is_no_error(directory: Path, wakeup: Wakeup) -> None:
    wakeup.watch([str(directory), str(directory.parent / "elsewhere")])
    directory.rmdir()
    look = changed(wakeup)
    (directory.parent / "elsewhere" / "new").touch()
    assert wait_until(wakeup, lambda: str(directory.parent / "elsewhere") in look())


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no watches left"), RuntimeError("no threads left")], ids=str)
def test_where_nothing_can_be_watched_it_still_sleeps_and_wakes(
    error: Exception, directory: Path, wakeup: Wakeup, stops: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise error

    monkeypatch.setattr(wakeups, "_observer", fails)
    assert wakeup.watch([str(directory)])
    signal.raise_signal(signal.SIGTERM)
    woken(wakeup)
    assert stops == [signal.SIGTERM]
