"""A clock that is computed, processes that take turns by it, and one metadata server that all of them ask.

Each process is a thread, and only one of them runs at a time: whoever has to wait gives the turn to the one that is due
first. Nothing else decides the order, so that a seed gives the same run again.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

READDIR_NAMES = 512  # so many names a server tells in one answer


class Killed(BaseException):
    """This process is no more: what it would still do has no effect."""


def _closed() -> threading.Lock:
    """A gate that whoever has the turn opens for the next one: a bare lock, the cheapest switch between threads."""
    gate = threading.Lock()
    gate.acquire()
    return gate


@dataclass(eq=False)
class Process:
    """One simulated process."""

    host: str
    clock: float
    action: Callable[[Process], None]
    turn: threading.Lock = field(default_factory=_closed)
    phase: str = "birth"
    is_killed: bool = False
    calls: Counter[str] = field(default_factory=Counter)  # by phase
    ended: float | None = None


@dataclass
class Server:
    """Answers so many calls a second, one after the other."""

    calls_per_s: float
    latency_s: float
    free_at: float = 0.0

    def answer(self, asked: float) -> float:
        """When the one who has asked has the answer."""
        self.free_at = max(asked + self.latency_s / 2, self.free_at) + 1 / self.calls_per_s
        return self.free_at + self.latency_s / 2


class World:
    """Everything that happens, in order of time."""

    def __init__(self, server: Server, root: str, start: float) -> None:
        self.server, self.start = server, start
        self.now = start
        self.current: Process | None = None
        self.seen: Counter[int] = Counter()  # calls by second
        self.by_kind: Counter[str] = Counter()
        self.by_kind_in: dict[str, Counter[str]] = {}
        self.last_result = start  # when a job was last shown as done
        self.last_first_claim = start  # when a runner last claimed its first job
        self._root = f"{root}/"
        self._due: list[tuple[float, int, Process]] = []
        self._order = itertools.count()
        self._over = threading.Event()
        self._living = 0
        self.failures: list[BaseException] = []

    # -- processes ------------------------------------------------------------------------------------------

    def add(self, process: Process) -> None:
        """A process that begins at its clock's time."""
        self._living += 1
        heapq.heappush(self._due, (process.clock, next(self._order), process))
        threading.Thread(target=self._live, args=(process,), daemon=True).start()

    def run(self) -> None:
        """Until all processes have ended. Raises what one of them has raised."""
        self._pass_on()
        self._over.wait()
        if self.failures:
            raise self.failures[0]

    def _live(self, process: Process) -> None:
        process.turn.acquire()
        try:
            process.action(process)
        except Killed:
            pass
        except BaseException as error:
            self.failures.append(error)
        process.ended = process.clock
        self._living -= 1
        self.current = None
        if self._living and not self.failures:
            self._pass_on()
        else:
            self._over.set()

    def _pass_on(self) -> Process:
        at, _, process = heapq.heappop(self._due)
        self.now = max(self.now, at)
        before, self.current = self.current, process
        if process is not before:
            process.turn.release()
        return process

    def sleep_until(self, at: float) -> None:
        """Let the others go on until it is so late for the current process."""
        me = self.current
        assert me is not None
        if self._due and self._due[0][0] <= at:
            heapq.heappush(self._due, (at, next(self._order), me))
            if self._pass_on() is not me:
                me.turn.acquire()
        else:
            self.now = max(self.now, at)
        me.clock = max(me.clock, at)
        if me.is_killed:
            raise Killed

    # -- the filesystem -------------------------------------------------------------------------------------

    def call(self, operation: str, path: str) -> None:
        """One call of the current process: it waits for its turn at the server, and pays for the answer."""
        me = self.current
        if me is None:
            return
        if me.is_killed:
            raise Killed
        self.sleep_until(me.clock)
        me.clock = self.server.answer(me.clock)
        self._count(me, self._kind(operation, path))

    def listed(self, path: str, names: int) -> None:
        """What the current process has listed was perhaps more than one answer can tell."""
        for _ in range(names // READDIR_NAMES):
            self.call("list", path)  # in its turn: who asked meanwhile is answered before

    def _count(self, me: Process, kind: str) -> None:
        if kind == "rename running/<runner>/<job>":
            self.last_result = max(self.last_result, me.clock)
        if kind == "rename pending/<runner>/<job>" and me.phase != "work":
            if me.phase == "birth":
                self.last_first_claim = max(self.last_first_claim, me.clock)
            me.phase = "work"
        self.seen[int(self.server.free_at - self.start)] += 1
        self.by_kind[kind] += 1
        self.by_kind_in.setdefault(me.phase, Counter())[kind] += 1
        me.calls[me.phase] += 1

    def _kind(self, operation: str, path: str) -> str:
        if not path.startswith(self._root):
            return f"{operation} ." if f"{path}/" == self._root else f"{operation} (spool)"
        parts = path[len(self._root) :].split("/")
        name = parts[-1]
        if name in ("runner.json", "heartbeat", "end.json", "journal", "lock"):
            return f"{operation} {name}"
        if parts[0] in ("pending", "running") and len(parts) > 1:
            return f"{operation} {parts[0]}/<runner>" + ("/<job>" if len(parts) > 2 else "")
        depth = 2 if parts[0] in ("done", "ready") else 1
        return f"{operation} {'/'.join(parts[:depth])}" + ("/<name>" if len(parts) > depth else "")
