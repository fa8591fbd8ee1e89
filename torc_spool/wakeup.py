"""Something may have changed: signals, exited children, and file events, as one thing to wait for.

File events are hints. Who waits here also polls, and loses only speed when an event is lost.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections import deque
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NOTICE = signal.SIGUSR1  # Slurm's word that the allocation is about to end


class Wakeup:
    """A pipe that signals and watch events write to. Use as a context manager, in the main thread."""

    def __init__(self, on_stop: Callable[[int], None]) -> None:
        self._on_stop = on_stop
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._read, select.POLLIN)
        self._before: dict[int, Any] = {}
        self._wakeup_before = -1
        self._observer: Any = None
        self._watched: set[str] = set()
        self._changed: deque[str] = deque()

    def __enter__(self) -> Wakeup:
        self._wakeup_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays nohup
                self._before[number] = signal.signal(number, self._stop)
        # batch scripts ignore it until we are here to heed it
        self._before[NOTICE] = signal.signal(NOTICE, self._stop)
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, _ignore)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()
        os.close(self._read)
        os.close(self._write)

    def wait(self, seconds: float) -> None:
        """Until something happens, or for so long."""
        if self._poll.poll(max(0, int(seconds * 1000) + 1) if seconds > 0 else 0):
            try:
                while len(os.read(self._read, 4096)) == 4096:
                    pass
            except BlockingIOError:
                pass

    def changes(self) -> set[str]:
        """The directories in which something has appeared since the last call."""
        found: set[str] = set()
        with contextlib.suppress(IndexError):
            while True:
                found.add(self._changed.popleft())
        return found

    def poke(self) -> None:
        """Wake it up; from any thread."""
        with contextlib.suppress(OSError):  # full: it wakes up anyway; closed: nobody sleeps there
            os.write(self._write, b"\0")

    def watch(self, directories: Iterable[str]) -> bool:
        """Wake up when a name appears in one of these directories. True when one was not watched before: what
        appeared in it meanwhile has to be looked for."""
        new = [path for path in directories if path not in self._watched]
        if not new:
            return False
        self._watched.update(new)
        for path in new:
            try:
                if self._observer is None:
                    self._observer = _observer()
                self._observer.schedule(_handler(self._appeared(path)), path)
            except (OSError, RuntimeError):
                continue  # no watches or threads left, or the directory is gone: the poll finds out
        return True

    def _appeared(self, path: str) -> Callable[[], None]:
        def tell() -> None:
            self._changed.append(path)
            self.poke()

        return tell

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self._on_stop(number)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """SIGCHLD only has to reach the wakeup descriptor."""


def _observer() -> Any:
    """watchdog's inotify observer for arrivals alone.

    Its own emitter also asks for departures, and holds back what follows one for half a second in the hope to pair
    it with an arrival; every claim is a departure from a watched directory.
    """
    from watchdog.observers.api import BaseObserver
    from watchdog.observers.inotify import InotifyEmitter
    from watchdog.observers.inotify_c import InotifyConstants, Mask

    class ArrivalEmitter(InotifyEmitter):
        def get_event_mask_from_filter(self) -> Mask:
            return Mask(InotifyConstants.IN_CREATE | InotifyConstants.IN_MOVED_TO | InotifyConstants.IN_DELETE_SELF)

    observer = BaseObserver(ArrivalEmitter)
    observer.start()
    return observer


def _handler(tell: Callable[[], None]) -> Any:
    from watchdog.events import FileSystemEvent, FileSystemEventHandler

    class Handler(FileSystemEventHandler):
        def on_any_event(self, event: FileSystemEvent) -> None:
            name = os.path.basename(os.fsdecode(event.dest_path or event.src_path))
            if event.event_type in ("created", "moved") and not name.startswith("."):  # temporaries, marks
                tell()

    return Handler()
