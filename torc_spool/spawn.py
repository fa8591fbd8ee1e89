"""Starting processes without waiting for them to get under way.

A process is made by vfork: its maker sleeps until the new one has loaded its program, which on a busy node is most of
a short job's life. So a few threads do that, and the runner goes on deciding. They touch nothing of the runner's.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import queue
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

THREADS = 4
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)  # a job gets them as it would from a shell
_SETPGROUP, _SETSIGDEF = 0x02, 0x04  # <spawn.h>, glibc and musl
_OPAQUE_BYTES = 1024  # posix_spawnattr_t and posix_spawn_file_actions_t are 80 to 336 bytes


class Environment:
    """Variables that many processes have alike: made ready for the kernel once. Those that are `given` win."""

    def __init__(self, inherited: Mapping[str, str], given: Mapping[str, str]) -> None:
        self.variables = {**inherited, **given}
        encoded = [os.fsencode(f"{name}={value}") for name, value in inherited.items() if name not in given]
        encoded += [_utf8(f"{name}={value}") for name, value in given.items()]
        self._pointers = (ctypes.c_char_p * len(encoded))(*encoded)

    def block(self, own: Mapping[str, str]) -> ctypes.Array[ctypes.c_char_p]:
        """These and a process's own, none of which is among them, as execve(2) takes them."""
        shared = len(self._pointers)
        block = (ctypes.c_char_p * (shared + len(own) + 1))()
        ctypes.memmove(block, self._pointers, ctypes.sizeof(self._pointers))
        for index, (name, value) in enumerate(own.items(), shared):
            block[index] = _utf8(f"{name}={value}")
        return block


class Order(NamedTuple):
    """A process to start. Its descriptors are closed when that has been done."""

    program: str
    arguments: tuple[str, ...]
    environment: Environment
    own: Mapping[str, str]  # variables of this process alone
    cwd: str
    prepare: Callable[[], tuple[int, int, int]]  # opens stdin, stdout, stderr; the last two are closed after


class Outcome(NamedTuple):
    """What became of an order: a process, or why there is none."""

    token: Any
    pid: int
    error: Exception | None


class Spawner:
    """Threads that start processes. `close` it at the end."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._orders: queue.SimpleQueue[tuple[Any, Order] | None] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self.in_flight = 0
        self._made = threading.Condition()
        self._making = 0  # processes that are being made, or are and have not been told of
        self._is_stopped = False

    def start(self, token: Any, order: Order) -> None:
        """Have a process started; the outcome bears the token."""
        self.in_flight += 1
        if len(self._threads) < min(THREADS, self.in_flight):
            thread = threading.Thread(target=self._work, daemon=True, name="torc-spool-spawn")
            try:
                thread.start()
            except RuntimeError:  # no more threads are to be had
                if not self._threads:
                    why = OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), order.program)
                    self._outcomes.put(Outcome(token, 0, why))
                    self._wake()
                    return
            else:
                self._threads.append(thread)
        self._orders.put((token, order))

    def outcomes(self, *, wait: bool = False) -> list[Outcome]:
        """What has been started since; with `wait` at least one outcome, if any is to come."""
        found: list[Outcome] = []
        with contextlib.suppress(queue.Empty):
            while self.in_flight:
                found.append(self._outcomes.get(block=wait and not found))
                self.in_flight -= 1
        return found

    def await_made(self) -> None:
        """Until each process that there is has its outcome: a child of ours without one is none of these. What is still
        being prepared, which may take long, is not waited for."""
        with self._made:
            self._made.wait_for(lambda: not self._making)

    def stop(self) -> None:
        """What has not been made yet is not made any more: its outcome is an error."""
        with self._made:
            self._is_stopped = True

    def close(self) -> None:
        """End the threads, when what is in flight has been started."""
        for _ in self._threads:
            self._orders.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _work(self) -> None:
        while (item := self._orders.get()) is not None:
            token, order = item
            try:
                descriptors = order.prepare()
            except Exception as error:
                self._outcomes.put(Outcome(token, 0, error))
            else:
                self._make(token, order, descriptors)
            self._wake()

    def _make(self, token: Any, order: Order, descriptors: tuple[int, int, int]) -> None:
        with self._made:
            is_wanted = not self._is_stopped
            self._making += is_wanted
        if not is_wanted:
            _close(descriptors)
            why = OSError(errno.ECANCELED, os.strerror(errno.ECANCELED), order.program)
            self._outcomes.put(Outcome(token, 0, why))
            return
        try:
            outcome = Outcome(token, spawn(order, descriptors), None)
        except Exception as error:
            outcome = Outcome(token, 0, error)
        with self._made:
            self._outcomes.put(outcome)
            self._making -= 1
            self._made.notify_all()


def spawn(order: Order, descriptors: tuple[int, int, int]) -> int:
    """Start a process with what `prepare` has opened, in a process group of its own; returns its id. Raises OSError,
    ValueError."""
    try:
        return _spawn_plainly(order, descriptors) if _LIBC is None else _spawn(order, descriptors)
    finally:
        _close(descriptors)


def _close(descriptors: tuple[int, int, int]) -> None:
    for descriptor in descriptors[1:]:
        with contextlib.suppress(OSError):  # a network filesystem may refuse here what the process has written
            os.close(descriptor)


def _load() -> ctypes.CDLL | None:
    """The C library, where it can start a process in another directory (glibc 2.29, musl 1.1.24)."""
    library = ctypes.CDLL(None, use_errno=True)
    return library if hasattr(library, "posix_spawn_file_actions_addchdir_np") else None


def _attributes(library: ctypes.CDLL) -> ctypes.Array[ctypes.c_char]:
    attributes = ctypes.create_string_buffer(_OPAQUE_BYTES)
    defaults = ctypes.create_string_buffer(_OPAQUE_BYTES)
    library.posix_spawnattr_init(attributes)
    library.sigemptyset(defaults)
    for number in _IGNORED_BY_PYTHON:
        library.sigaddset(defaults, int(number))
    library.posix_spawnattr_setsigdefault(attributes, defaults)
    library.posix_spawnattr_setpgroup(attributes, 0)
    library.posix_spawnattr_setflags(attributes, ctypes.c_short(_SETPGROUP | _SETSIGDEF))
    return attributes


_LIBC = _load()
_ATTRIBUTES = _attributes(_LIBC) if _LIBC is not None else None
_PLAINLY = threading.Lock()


def _spawn(order: Order, descriptors: tuple[int, int, int]) -> int:
    """By the C library itself: unlike `os.posix_spawn`, a call through ctypes lets other threads run meanwhile."""
    assert _LIBC is not None
    actions = ctypes.create_string_buffer(_OPAQUE_BYTES)
    _check(_LIBC.posix_spawn_file_actions_init(actions), order.program)
    try:
        for number, descriptor in enumerate(descriptors):
            _check(_LIBC.posix_spawn_file_actions_adddup2(actions, descriptor, number), order.program)
        cwd = ctypes.c_char_p(os.fsencode(order.cwd))
        _check(_LIBC.posix_spawn_file_actions_addchdir_np(actions, cwd), order.cwd)
        arguments = [_utf8(argument) for argument in order.arguments]
        pid = ctypes.c_int()
        error = _LIBC.posix_spawn(
            ctypes.byref(pid),
            ctypes.c_char_p(os.fsencode(order.program)),
            actions,
            _ATTRIBUTES,
            (ctypes.c_char_p * (len(arguments) + 1))(*arguments, None),
            order.environment.block(order.own),
        )
    finally:
        _LIBC.posix_spawn_file_actions_destroy(actions)
    _check(error, order.program if os.path.isdir(order.cwd) else order.cwd)
    return pid.value


def _utf8(text: str) -> bytes:
    """What a spool says is UTF-8, whatever the locale of the runner."""
    return text.encode("utf-8", "surrogateescape")


def _check(error: int, path: str) -> None:
    if error:
        raise OSError(error, os.strerror(error), path)


def _spawn_plainly(order: Order, descriptors: tuple[int, int, int]) -> int:
    """By Python's call, which starts a process where we are: so we go there first, one at a time."""
    with _PLAINLY:
        os.chdir(order.cwd)
        return os.posix_spawn(
            order.program,
            order.arguments,
            {**order.environment.variables, **order.own},
            file_actions=[(os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate(descriptors)],
            setpgroup=0,
            setsigdef=_IGNORED_BY_PYTHON,
        )
