"""What a filesystem does, tried out by some processes at once, on one node or on several. `doctor` judges.

The peers of a meeting find each other through files below `DIR/.doctor-<name>`. They go through the same probes in
the same order; after each, everybody says what it saw, and waits for what the others say.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from torc_spool import fsops, mounts, naming, processes
from torc_spool.doctor import Findings
from torc_spool.errors import NotFound, StorageError, UsageError
from torc_spool.wakeup import Wakeup

RACES = 20  # each time
ROUNDS = 5
PATIENCE_S = 120.0  # for the next word of a peer
LOCK_S = 15.0  # for a lock that does not wait
GATHERING_S = 600.0  # for the peers to come
SIGHT_S = 90.0  # for a name in a listing; shorter than what a peer waits for the word of another
EVENT_S = 3.0
_CALLS = 200
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.001, 0.05


class Meeting:
    """Some peers at work in one directory. Make one with `join`."""

    def __init__(self, path: str, name: str, size: int) -> None:
        self.path, self._name, self.size = path, name, size
        self._said, self.work = f"{path}/said", f"{path}/work"
        self._peers: list[str] = []

    @classmethod
    def join(cls, directory: str, word: str, size: int, *, patience_s: float = GATHERING_S) -> Meeting:
        """Come to the meeting of that word, and wait for the others. Raises UsageError, NotFound, StorageError."""
        meeting = cls(meeting_path(directory, word), naming.new_runner_name(processes.host_name(), os.getpid()), size)
        fsops.make_directory(meeting.path)
        for part in ("said", "peers", "work"):
            fsops.make_directory(f"{meeting.path}/{part}")
        try:
            fsops.create(f"{meeting.path}/peers/{meeting._name}")
            peers = meeting._await(f"{meeting.path}/peers", lambda names: len(names) >= size, patience_s)
        except BaseException:
            meeting.remove()
            raise
        meeting._peers = sorted(peers)
        if len(peers) > size or meeting._name not in peers:
            fsops.remove_file(f"{meeting.path}/peers/{meeting._name}")
            raise UsageError(
                f"{meeting.path}: {len(peers)} have come for {size}; if an earlier doctor was killed here, remove that"
                " directory, or meet by another name"
            )
        return meeting

    @property
    def index(self) -> int:
        """This peer's place among all; the first one leads."""
        return self._peers.index(self._name)

    def say(self, what: str, value: Any = None) -> list[Any]:
        """Say something about one thing, and hear what each peer has said about it, in their order."""
        mine = f"{what}.{self.index}"
        if not fsops.replace(self._said, mine, msgspec.json.encode(value)):
            raise NotFound(f"{self.path}: is gone: a peer has broken the meeting off")
        wanted = [f"{what}.{peer}" for peer in range(self.size)]
        self._await(self._said, lambda names: names.issuperset(wanted), PATIENCE_S)
        return [_content(f"{self._said}/{name}") for name in wanted]

    def await_name(self, directory: str, name: str) -> bool:
        """Whether a fresh listing shows the name in time."""
        try:
            self._await(directory, lambda names: name in names, SIGHT_S)
        except NotFound:
            return False
        return True

    def end(self) -> None:
        """Leave nothing behind. The first peer removes it all, once the others have left."""
        with contextlib.suppress(NotFound):
            self.say("end")
            if self.index > 0:
                fsops.create(f"{self.work}/left-{self.index}")
                return
            left = {f"left-{peer}" for peer in range(1, self.size)}
            self._await(self.work, lambda names: names.issuperset(left), PATIENCE_S)
        self.remove()

    def remove(self) -> None:
        """Break it off: whoever comes too late finds nothing. It is gone at once, whatever a peer still makes in it."""
        gone = f"{self.path}-{os.urandom(4).hex()}"
        with contextlib.suppress(StorageError):
            if fsops.rename_directory(self.path, gone):
                fsops.remove_tree(gone)

    def _await(self, directory: str, arrived: Callable[[set[str]], bool], patience_s: float) -> set[str]:
        """The names in a directory, once they are as wanted. Raises NotFound when they are not in time."""
        deadline, pause = time.monotonic() + patience_s, _FIRST_PAUSE_S
        while not arrived(names := self._listed(directory)):
            if time.monotonic() > deadline:
                raise NotFound(f"{directory}: other peers did not come, or fell silent, for {patience_s:g} s")
            time.sleep(pause)
            pause = min(2 * pause, _LAST_PAUSE_S)
        return names

    def _listed(self, directory: str) -> set[str]:
        names = fsops.entries(directory)
        if names is None:
            raise NotFound(f"{self.path}: is gone: a peer has broken the meeting off")
        return set(names)


def meeting_path(directory: str, word: str) -> str:
    return f"{directory}/{naming.meeting_directory(word)}"


def _content(path: str) -> Any:
    content = fsops.read(path)
    if content is None:
        raise NotFound(f"{path}: is gone: a peer has broken the meeting off")
    return msgspec.json.decode(content.data)


def alone(directory: str, size: int = 3) -> Findings:
    """Measure with some processes of one's own, on this node. Raises StorageError, NotFound."""
    word = f"{os.getpid()}-{os.urandom(4).hex()}"
    path = meeting_path(directory, word)
    children = [child for _ in range(size - 1) if (child := _fork(directory, word, size))]
    try:
        return together(directory, word, size, patience_s=PATIENCE_S)[0]
    except (NotFound, StorageError) as error:
        is_gone = not isinstance(error, StorageError) or error.errno == errno.ENOENT
        if is_gone and (refused := _ended(children)):
            raise StorageError("measure in", path, refused[0]) from None
        raise
    finally:
        _ended(children)
        fsops.remove_tree(path)


def _fork(directory: str, word: str, size: int) -> int:
    child = os.fork()
    if child:
        return child
    refused = 0
    try:
        together(directory, word, size, patience_s=PATIENCE_S)
    except StorageError as error:
        refused = error.errno or 0
    except BaseException:  # noqa: S110 - the parent misses our word, and says so
        pass
    os._exit(refused)


def _ended(children: list[int]) -> list[int]:
    """What the filesystem refused to our own processes, as errno, once they have ended."""
    codes = []
    while children:
        codes.append(os.waitstatus_to_exitcode(os.waitpid(children.pop(), 0)[1]))
    return [code for code in codes if code > 0]


def together(directory: str, word: str, size: int, *, patience_s: float = GATHERING_S) -> tuple[Findings, bool]:
    """Measure with the peers that know the same word; whether this one is the first of them.

    All get the same findings. Raises StorageError, NotFound, UsageError.
    """
    meeting = Meeting.join(directory, word, size, patience_s=patience_s)
    try:
        findings = _measure(meeting)
        meeting.end()
    except BaseException:
        meeting.remove()
        raise
    return findings, meeting.index == 0


def _measure(meeting: Meeting) -> Findings:
    hosts = tuple(meeting.say("host", processes.host_name()))
    found = _local(meeting)
    found["rename_wrong"] = _rename_races(meeting)
    found["mkdir_wrong"] = _races(meeting, "mkdir", fsops.make_directory)
    found["create_wrong"] = _races(meeting, "create", fsops.create)
    found["torn"] = _torn(meeting)
    found["lock_excludes"] = _lock(meeting)
    found["listing_late_s"] = _listing_late(meeting)
    found["events"] = _events(meeting)
    found["clock_skew_s"] = max(meeting.say("clock", _clock_skew(meeting)), key=abs)
    return Findings(hosts=hosts, races=ROUNDS * RACES, **found)


# -- by one process ----------------------------------------------------------------------------------------


def _local(meeting: Meeting) -> dict[str, Any]:
    """What needs no other. Everybody tries it, in a directory of its own, and the worst counts."""
    own = f"{meeting.work}/own-{meeting.index}"
    fsops.make_directory(own)
    mine = {
        "rmdir_keeps": _rmdir_keeps(own),
        "links": fsops.create(f"{own}/one") and fsops.link(f"{own}/one", f"{own}/two"),
        "executable": _executable(own),
        **_speed(own),
        **mounts.space(own)._asdict(),
    }
    kind, network = mounts.filesystem(own), mounts.is_network(own)
    everybody = meeting.say("local", mine)
    worst: dict[str, Any] = {key: min(each[key] for each in everybody) for key in mine if key not in _OTHERWISE}
    worst["list_s"] = max(each["list_s"] for each in everybody)
    counted = [each["inodes_free"] for each in everybody if each["inodes_free"] is not None]
    return {**worst, "inodes_free": min(counted, default=None), "filesystem": kind, "network": network}


_OTHERWISE = ("list_s", "inodes_free")


def _rmdir_keeps(own: str) -> bool:
    fsops.make_directory(f"{own}/full")
    fsops.create(f"{own}/full/file")
    return not fsops.remove_directory(f"{own}/full") and "file" in fsops.names(f"{own}/full")


def _executable(own: str) -> bool:
    fsops.create(f"{own}/program", b"#!/bin/sh\nexit 0\n", 0o755)
    try:
        return subprocess.run([f"{own}/program"], check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def _speed(own: str) -> dict[str, float]:
    fsops.make_directory(f"{own}/speed")
    began = time.perf_counter()
    for number in range(_CALLS):
        fsops.create(f"{own}/speed/{number}", bytes(500))
    created = time.perf_counter()
    for number in range(_CALLS):
        fsops.rename(f"{own}/speed/{number}", f"{own}/speed/{number}.moved")
    renamed = time.perf_counter()
    for _ in range(10):
        fsops.names(f"{own}/speed")
    listed = time.perf_counter()
    return {
        "create_per_s": round(_CALLS / (created - began), 1),
        "rename_per_s": round(_CALLS / (renamed - created), 1),
        "list_s": round((listed - renamed) / 10, 6),
    }


def _clock_skew(meeting: Meeting) -> float:
    """The filesystem's time less this host's."""
    path = f"{meeting.work}/clock-{meeting.index}"
    fsops.create(path)
    before = time.time()
    fsops.touch(path)
    after = time.time()
    content = fsops.read(path)
    skew = 0.0 if content is None else content.mtime - (before + after) / 2
    return 0.0 if abs(skew) <= after - before + 0.02 else round(skew, 3)  # the kernel's clock ticks


# -- by all of them at once --------------------------------------------------------------------------------


def _races(meeting: Meeting, what: str, attempt: Callable[[str], bool]) -> int:
    """How many races had not exactly one who was told that he won."""
    wrong = 0
    for turn in range(ROUNDS):
        meeting.say(f"{what}-{turn}")
        mine = [number for number in range(RACES) if attempt(f"{meeting.work}/{what}-{turn}-{number}")]
        won = Counter(number for each in meeting.say(f"{what}-{turn}-won", mine) for number in each)
        wrong += sum(won[number] != 1 for number in range(RACES))
    return wrong


def _rename_races(meeting: Meeting) -> int:
    """The same for claims: into a place of one's own. Told or not, whoever has the file has won."""
    own, wrong = f"{meeting.work}/claimed-{meeting.index}", 0
    fsops.make_directory(own)
    for turn in range(ROUNDS):
        files = [f"file-{turn}-{number}" for number in range(RACES)]
        if meeting.index == 0:
            for name in files:
                fsops.create(f"{meeting.work}/{name}")
        meeting.say(f"rename-{turn}")
        told = {name for name in files if fsops.rename(f"{meeting.work}/{name}", f"{own}/{name}")}
        mine = sorted(told | {name for name in fsops.names(own) if name in files})
        won = Counter(name for each in meeting.say(f"rename-{turn}-won", mine) for name in each)
        wrong += sum(won[name] != 1 for name in files)
    return wrong


def _torn(meeting: Meeting) -> int:
    """The first peer puts one content in place of another; the others read it meanwhile."""
    path, contents = f"{meeting.work}/replaced", [letter * 5000 for letter in (b"a", b"b")]
    torn = 0
    if meeting.index == 0:
        fsops.replace(meeting.work, "replaced", contents[0])
    meeting.say("torn")
    for turn in range(_CALLS):
        if meeting.index == 0:
            fsops.replace(meeting.work, "replaced", contents[turn % 2])
        else:
            content = fsops.read(path)
            torn += content is not None and content.data not in contents
    return sum(meeting.say("torn-seen", torn))


def _lock(meeting: Meeting) -> bool | None:
    """Whether the first peer's lock keeps the others out, and lets them in when it is gone. None: no locks."""
    path = f"{meeting.work}/lock"
    if meeting.index == 0:
        fsops.create(path)
    meeting.say("lock-made")
    lock = _Lock(fsops.open_lock(path))
    held = lock.acquire() if meeting.index == 0 else None
    first = meeting.say("lock-held", held)[0]
    tried = lock.acquire() if meeting.index > 0 else None
    others = meeting.say("lock-tried", tried)[1:]
    lock.close(path)
    if first is not True:
        return None
    return not any(others)


class _Lock:
    """Tried by another thread: on NFS 3 no call comes back while the server's lockd cannot be reached."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def acquire(self) -> bool | None:
        """None where there are no locks, or the call does not come back; then the descriptor is the thread's."""
        said: list[bool | None] = []
        thread = threading.Thread(target=lambda: said.append(_try_lock(self._descriptor)), daemon=True)
        thread.start()
        thread.join(LOCK_S)
        if not said:
            self._descriptor = None
        return said[0] if said else None

    def close(self, path: str) -> None:
        if self._descriptor is not None:
            fsops.close(self._descriptor, path)


def _try_lock(descriptor: int | None) -> bool | None:
    from filelock import lock_descriptor

    if descriptor is None:
        return None
    try:
        return bool(lock_descriptor(descriptor, blocking=False))
    except OSError:
        return None


def _listing_late(meeting: Meeting) -> float | None:
    """Half of the longest way there and back, by fresh listings: the peers' clocks need not agree."""
    longest = 0.0
    for turn in range(ROUNDS):
        meeting.say(f"listing-{turn}")
        ping, pong = f"ping-{turn}", f"pong-{turn}"
        began, seen = time.monotonic(), True
        if meeting.index == 0:
            fsops.create(f"{meeting.work}/{ping}")
            seen = meeting.await_name(meeting.work, pong)
        elif meeting.index == 1:
            seen = meeting.await_name(meeting.work, ping)
            fsops.create(f"{meeting.work}/{pong}")
        both = meeting.say(f"listing-{turn}-seen", (time.monotonic() - began) / 2 if seen else None)[:2]
        if None in both:
            return None
        longest = max(longest, both[0])
    return round(longest, 4)


def _events(meeting: Meeting) -> bool | None:
    """Whether all other peers are told of a file that the first one makes."""
    watched = f"{meeting.work}/watched"
    if meeting.index == 0:
        fsops.make_directory(watched)
    meeting.say("events-made")
    if meeting.index == 0:
        meeting.say("events-watched")
        fsops.create(f"{watched}/file")
        heard: bool | None = None
    else:
        heard = _hear(meeting, watched)
    others = meeting.say("events-heard", heard)[1:]
    return all(others) if others else None


def _hear(meeting: Meeting, watched: str) -> bool:
    def stopped(_number: int) -> None:
        raise KeyboardInterrupt

    with Wakeup(stopped) as wakeup:
        wakeup.watch([watched])
        meeting.say("events-watched")
        deadline, heard = time.monotonic() + EVENT_S, False
        while not heard and (left := deadline - time.monotonic()) > 0:
            wakeup.wait(left)
            heard = watched in wakeup.changes()
        return heard
