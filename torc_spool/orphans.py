"""What jobs leave behind: children that we did not start, handed to us when their own parent died."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection
from typing import NamedTuple

from torc_spool import processes
from torc_spool.execution import TASK_VARIABLE


class Found(NamedTuple):
    """What was left."""

    tasks: set[str]
    nameless: list[int]  # pids of those whose environment does not say whose they are


class Orphans:
    """Made before any job is started: whoever is our child by then is none of ours.

    A script that ends with `exec torc-spool run`, or whose last command it is, may have begun something beside it (a
    log, a watchdog), which stays a child of the process that is the runner now. It and what it starts are told by their
    process groups, for each job has one of its own.
    """

    def __init__(self) -> None:
        self._before = set(_children())
        self._groups = {os.getpgrp(), *(group for pid in self._before if (group := _group(pid)) is not None)}

    def forget(self, pid: int) -> None:
        """A child has been waited for: its id may be another's now."""
        self._before.discard(pid)

    def find(self, known: Collection[int] = ()) -> Found:
        """Those whose pids are not `known`. None where the kernel does not list children (proc_pid_task_children(5));
        the runner's end finds most then."""
        found = Found(set(), [])
        mark = f"{TASK_VARIABLE}=".encode()
        for pid in _children():
            if pid in known or pid in self._before or _group(pid) in self._groups:
                continue
            environ: list[bytes] = []
            with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
                environ = file.read().split(b"\0")
            tasks = [entry[len(mark) :].decode() for entry in environ if entry.startswith(mark)]
            if tasks:
                found.tasks.update(tasks)
            else:
                found.nameless.append(pid)
        return found

    def end(self, timeout_s: float = processes.KILL_TIMEOUT_S) -> None:
        """Kill those that are nameless, and what they leave us in turn, when no job runs any more."""
        deadline = time.monotonic() + timeout_s
        spared: set[int] = set()  # they run as somebody else, and are not ours to kill
        while pids := self.find(spared).nameless:
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)  # it is still the same one: we have not waited for it
                except PermissionError:
                    spared.add(pid)
                    continue
                with contextlib.suppress(ChildProcessError):
                    if os.waitpid(pid, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
                        time.sleep(0.001)
            if time.monotonic() >= deadline:
                return


def _children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None
