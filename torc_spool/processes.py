"""Facts about processes on this host, and the end of those that a job or a dead runner left behind.

A thin edge over proc(5). A process is named by its pid and its start time, since pids are used again. Every
answer may be out of date on return; what is unknown counts as alive. Only what proc says of *this* pid
namespace is believed. Errors other than "no such process" and "not permitted" are raised: a look that ran
out of descriptors proves nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import time
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

KILL_TIMEOUT_S = 10.0

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_STOP_ROUNDS = 50
_EXEC_LOOKS = 50
_EXEC_PAUSE_S = 0.005
_GONE = (FileNotFoundError, ProcessLookupError)  # before and after the open of a file below /proc/<pid>


# --- this host and this process


def host_name() -> str:
    """This node's short name, with letters, digits, ``_`` and ``-`` only, as it stands in runner names."""
    label = socket.gethostname().partition(".")[0]
    return _UNSAFE.sub("-", label)[:64].strip("-") or "localhost"


def boot_id() -> str:
    """Differs after every boot, random(4); empty where it is not known."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def pid_namespace() -> str:
    """The namespace in which this process's pids mean something, pid_namespaces(7); empty where not known."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


# --- one process


class _Stat(NamedTuple):
    """What we use of proc_pid_stat(5)."""

    pid: int
    state: bytes
    parent: int
    group: int
    session: int
    threads: int
    start: str  # clock ticks since boot
    rss_pages: int

    @property
    def gone(self) -> bool:
        """A zombie runs nothing any more, unless it is a first thread that ended before the others."""
        return self.state in (b"X", b"x") or (self.state == b"Z" and self.threads <= 1)


def start_time(pid: int) -> str | None:
    """When the process began, in clock ticks since boot (field 22 of proc_pid_stat(5)).

    None when there is no such process, when it is a zombie, and when this user may not see it.
    """
    try:
        stat = _stat(pid) if _proc_is_ours() else None
    except PermissionError:
        return None
    return None if stat is None or stat.gone else stat.start


def is_same_process(pid: int, start: str) -> bool:
    """Whether the process that had this pid and start time lives. What cannot be seen counts as alive.

    An empty ``start`` (it was not known to whoever recorded it) matches any.
    """
    try:
        stat = _stat(pid) if _proc_is_ours() else None
    except PermissionError:
        stat = None
    if stat is not None:
        return not stat.gone and start in ("", stat.start)
    return _answers(pid)


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped, by SIGSTOP or a debugger: until somebody continues it, it does nothing."""
    try:
        stat = _stat(pid) if _proc_is_ours() else None
    except PermissionError:
        return False
    return stat is not None and stat.state in (b"T", b"t")


def _answers(pid: int) -> bool:
    """Whether the kernel knows the pid: the mount option hidepid of proc(5) hides other users' processes."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _proc_is_ours() -> bool:
    """Whether /proc is there and shows our own pid namespace, pid_namespaces(7)."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def _stat_fields(pid: int) -> list[bytes] | None:
    """Fields 3 and up of proc_pid_stat(5); None for no such process, or when hidepid makes it seem so."""
    try:
        text = _read(f"/proc/{pid}/stat")
    except _GONE:
        return None
    # The command's name stands in parentheses and may hold spaces and parentheses itself.
    return text[text.rindex(b")") + 2 :].split()


def _stat(pid: int) -> _Stat | None:
    fields = _stat_fields(pid)
    if fields is None:
        return None
    return _Stat(
        pid=pid,
        state=fields[0],
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        threads=int(fields[17]),
        start=fields[19].decode("ascii"),
        rss_pages=int(fields[21]),
    )


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = []
        while chunk := os.read(descriptor, 65536):
            chunks.append(chunk)
        return b"".join(chunks)
    finally:
        os.close(descriptor)


def _pids() -> list[int]:
    """All that this user can see; none when /proc shows another namespace, where the numbers mean others."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()] if _proc_is_ours() else []


def _stats() -> Iterator[_Stat]:
    """One pass over all live processes that this user can see."""
    for pid in _pids():
        with contextlib.suppress(PermissionError):
            stat = _stat(pid)
            if stat is not None and not stat.gone:
                yield stat


def _signal(pid: int, start: str, number: int) -> bool:
    """Send a signal to exactly this process; False when it is gone or not ours to signal.

    The descriptor is what keeps a new process with the same pid from getting it, pidfd_open(2), Linux 5.3.
    """
    descriptor = _pidfd(pid)
    try:
        if start_time(pid) != start:
            return False
        if descriptor is None:
            os.kill(pid, number)
        else:
            signal.pidfd_send_signal(descriptor, number)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return True


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


# --- processes by a mark in their environment

ALLOCATION_VARIABLE = "TORC_ALLOCATION"
"""Of a job: the allocation of Slurm in which its runner is; empty where it is in none."""


def find_marked(variable: str, value: str) -> list[int]:
    """Pids, our own aside, of processes whose environment holds exactly ``variable=value``.

    That is the environment with which they were started, proc_pid_environ(5). Processes whose environment
    this user may not read, or that have written over it, are not found; nor are those of another allocation of Slurm
    than `ALLOCATION_VARIABLE` says.
    """
    return sorted(_find_marked((variable, value)))


def kill_marked(
    variable: str, value: str, *, also: tuple[str, str] | None = None, timeout_s: float = KILL_TIMEOUT_S
) -> int:
    """SIGKILL all processes with the mark and their descendants; how many distinct ones are gone by it.

    With ``also``, a second (variable, value), only those that bear both.
    Ourselves and our own descendants are spared. Returns when two looks in a row find none, or after
    ``timeout_s`` seconds: `find_marked` then still names those that do not die (in an uninterruptible call
    to a filesystem that does not answer, say).
    """
    deadline = time.monotonic() + timeout_s
    killed: set[tuple[int, str]] = set()
    empty_looks = 0
    while empty_looks < 2:
        found = _stop_marked((variable, value), *([also] if also else []))
        hit = {(pid, start) for pid, start in found.items() if _signal(pid, start, signal.SIGKILL)}
        killed |= hit
        # One empty look may have missed the child of a process that ended while the list was read.
        empty_looks = 0 if hit else empty_looks + 1
        _await_gone(hit, deadline)
        if time.monotonic() > deadline:
            break
    return sum(not is_same_process(pid, start) for pid, start in killed)


def _stop_marked(*marks: tuple[str, str]) -> dict[int, str]:
    """SIGSTOP all processes with the mark until a look finds no new one: the stopped ones fork no more."""
    stopped: dict[int, str] = {}
    for _ in range(_STOP_ROUNDS):
        found = _with_descendants(_find_marked(*marks))
        new = {pid: start for pid, start in found.items() if stopped.get(pid) != start}
        if not new:
            break
        for pid, start in new.items():
            _signal(pid, start, signal.SIGSTOP)
        stopped |= new
    return stopped


def _find_marked(*marks: tuple[str, str]) -> dict[int, str]:
    """The start times of processes with all of these marks, by pid."""
    entries = [os.fsencode(f"{variable}={value}") for variable, value in marks]
    own = os.getpid()
    found = {}
    for pid in _pids():
        if pid != own and _holds(pid, entries):
            start = start_time(pid)
            # Asked again, so that the start time is surely that of a process with the mark.
            if start is not None and _holds(pid, entries):
                found[pid] = start
    return found


def _holds(pid: int, entries: Iterable[bytes]) -> bool:
    try:
        environ = _environ(pid)
    except (*_GONE, PermissionError):
        return False
    held = environ.split(b"\0")
    return all(entry in held for entry in entries) and not _is_elsewhere(held)


def _is_elsewhere(environ: Collection[bytes]) -> bool:
    """Whether Slurm runs the process in another allocation than the job's that has asked for it: sbatch gives a job's
    environment, and so its marks, to what it starts."""
    said = {name: value for name, _, value in (entry.partition(b"=") for entry in environ)}
    here, asked_by = said.get(b"SLURM_JOB_ID"), said.get(ALLOCATION_VARIABLE.encode())
    return here is not None and asked_by is not None and here != asked_by


def _environ(pid: int) -> bytes:
    """The environment with which the process was started.

    It reads as empty for a moment while the process goes from one program to the next by execve(2); on a
    busy node that moment can be long. A short wait ends it, else an empty one is believed.
    """
    for _ in range(_EXEC_LOOKS):
        environ = _read(f"/proc/{pid}/environ")
        if environ or not _is_in_exec(pid):
            return environ
        time.sleep(_EXEC_PAUSE_S)
    return b""


def _is_in_exec(pid: int) -> bool:
    """Whether a process whose environment reads as empty has one: env_start and env_end, proc_pid_stat(5)."""
    fields = _stat_fields(pid)
    if fields is None or len(fields) <= 51 - 3:
        return False
    vsize, env_start, env_end = (fields[number - 3] for number in (23, 50, 51))
    has_memory = vsize != b"0"  # unlike a kernel thread and a process that has ended
    return has_memory and (env_end == b"0" or env_start != env_end)


def _with_descendants(found: dict[int, str]) -> dict[int, str]:
    """``found`` and its descendants, which may have cleared their environment; our own are left out."""
    children: dict[int, list[_Stat]] = {}
    for stat in _stats() if found else ():
        if stat.pid != os.getpid():
            children.setdefault(stat.parent, []).append(stat)
    family, parents = dict(found), list(found)
    while parents:
        for child in children.pop(parents.pop(), ()):
            family.setdefault(child.pid, child.start)
            parents.append(child.pid)
    return family


def _await_gone(targets: Collection[tuple[int, str]], deadline: float) -> None:
    """Wait until none of these processes lives, at most until ``deadline`` of the monotonic clock."""
    pause = 0.0005
    while any(is_same_process(pid, start) for pid, start in targets) and time.monotonic() < deadline:
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


# --- process trees


class Usage(NamedTuple):
    """What a job's process tree holds now."""

    rss_bytes: int  # shared pages count once for each process; see `pss_bytes`
    pids: tuple[int, ...]


def usage(roots: Collection[int]) -> dict[int, Usage]:
    """The process tree of each root, in one pass over all processes.

    A root is the pid of a job's first process and the id of its process group. To its tree belong the
    group, the session of that id, and the descendants of all these. The kernel sums these figures
    lazily, cpu by cpu: on nodes with very many they may be off by many MiB, proc_pid_statm(5).
    """
    if not roots:
        return {}
    page = os.sysconf("SC_PAGE_SIZE")
    return {
        root: Usage(sum(stat.rss_pages for stat in members) * page, tuple(stat.pid for stat in members))
        for root, members in _trees(_stats(), roots).items()
    }


def pss_bytes(pids: Iterable[int]) -> int:
    """The memory of these processes, each shared page divided among those that share it.

    From proc_pid_smaps_rollup(5), Linux 4.14; the resident set where that cannot be read. Costs a walk of
    the page tables, milliseconds per GiB: ask before a kill, not in a loop.
    """
    return sum(_pss_or_rss(pid) for pid in pids)


def kill_tree(pgid: int, marked: tuple[str, str] | None, sig: int) -> bool:
    """Send ``sig`` to a process group and, with a mark, also to those of its tree that have left the group.

    ``marked`` is the (variable, value) that only this job's processes have in their environment. It finds
    those that changed their session and lost their parent. Each process gets the signal once; one that forks
    meanwhile may leave a child behind, which `kill_marked` finds. False when there was nobody to send it to.
    Call it before the group's leader is waited for: the id may be another group's after that.
    """
    if pgid <= 1 or pgid == os.getpgrp():
        raise ValueError(f"process group {pgid} is not a job's")
    outside = _outside(pgid, marked) if marked else {}
    sent = _signal_group(pgid, sig)
    for pid, start in outside.items():
        sent = _signal(pid, start, sig) or sent
    return sent


def _signal_group(pgid: int, sig: int) -> bool:
    try:
        os.killpg(pgid, sig)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _outside(pgid: int, marked: tuple[str, str]) -> dict[int, str]:
    """Start times by pid of those that belong to the job but are not in its process group."""
    stats = {stat.pid: stat for stat in _stats()}
    members = {stat.pid: stat.start for stat in _trees(stats.values(), (pgid,))[pgid]}
    members |= _with_descendants(_find_marked(marked))
    in_group = {pid for pid, stat in stats.items() if stat.group == pgid}
    return {pid: start for pid, start in members.items() if pid not in in_group and pid != os.getpid()}


def _trees(stats: Iterable[_Stat], roots: Collection[int]) -> dict[int, list[_Stat]]:
    """Which processes belong to which root: by group, by session, else as their parent does."""
    by_pid = {stat.pid: stat for stat in stats}
    wanted = frozenset(roots)
    belongs: dict[int, int | None] = {}
    trees: dict[int, list[_Stat]] = {root: [] for root in roots}
    for stat in by_pid.values():
        root = _root_of(stat, by_pid, wanted, belongs)
        if root is not None:
            trees[root].append(stat)
    return trees


def _root_of(
    stat: _Stat, by_pid: dict[int, _Stat], roots: frozenset[int], belongs: dict[int, int | None]
) -> int | None:
    """Climb to the first process whose root is known; ``belongs`` remembers it for all on the way."""
    root: int | None = None
    way: list[int] = []
    at: _Stat | None = stat
    while at is not None:
        if at.pid in belongs:
            root = belongs[at.pid]
            break
        way.append(at.pid)
        belongs[at.pid] = None  # processes come and go during the pass: parents might form a ring
        root = next((own for own in (at.pid, at.group, at.session) if own in roots), None)
        if root is not None:
            break
        at = by_pid.get(at.parent)
    belongs.update(dict.fromkeys(way, root))
    return root


def _pss_or_rss(pid: int) -> int:
    with contextlib.suppress(*_GONE, PermissionError):
        for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(*_GONE, PermissionError):
        return int(_read(f"/proc/{pid}/statm").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
