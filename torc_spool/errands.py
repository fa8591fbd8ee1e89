"""Processes of a runner that are no jobs: shell commands that run one after the other, and take no slot.

Like jobs they are started without waiting, bear the marks by which what they leave is found, and have their notice
when the runner must end.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping

from torc_spool import fsops, processes
from torc_spool.errors import StorageError
from torc_spool.spawn import Environment, Order, Spawner

CODE_CANNOT_START = 126  # as a shell returns for a command that it cannot execute
RETRY_S = 1.0
TROUBLE_S = 15.0  # a node that cannot start a command for so long does not start it at all
_OUTPUT_TRIES = 3


class Errand:
    """Commands to run in order, each in a shell of its own; the first that fails is the last."""

    def __init__(
        self,
        commands: tuple[str, ...],
        *,
        task: tuple[str, str],
        environment: Environment,
        own: Mapping[str, str],
        cwd: str,
        outputs: tuple[str, str],
    ) -> None:
        self.commands, self.task, self.cwd = commands, task, cwd
        self.stdout, self.stderr = outputs
        self._environment, self._own = environment, {**own, task[0]: task[1]}
        self._descriptors: tuple[int, int, int] | None = None
        self.at = 0  # the command that runs, or is about to
        self.begun = False  # whether any command was started
        self.pid = 0
        self.code: int | None = None  # of the whole, once it is over
        self.notice = False  # whether it was asked to end
        self.is_killed = False
        self.kill_at = math.inf
        self.end_at = math.inf  # when it must be over
        self.retry_at = math.inf
        self.since = math.inf  # when it could not be started for the first time
        self.trouble: str | None = None  # why it could not be started

    def order(self, bash: str) -> Order:
        """What a spawner needs to start the next command."""

        def prepare() -> tuple[int, int, int]:
            stdin, out, err = self._open()
            out = os.dup(out)
            try:
                return stdin, out, os.dup(err)
            except OSError:
                os.close(out)
                raise

        return Order(bash, ("bash", "-c", self.commands[self.at]), self._environment, self._own, self.cwd, prepare)

    def _open(self) -> tuple[int, int, int]:
        """Its files, open as long as it lasts, so that one command writes behind the other."""
        if self._descriptors is None:
            with contextlib.ExitStack() as stack:
                stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, stdin)
                out, self.stdout = _new_output(self.stdout)
                stack.callback(os.close, out)
                err, self.stderr = _new_output(self.stderr)
                stack.pop_all()
            self._descriptors = (stdin, out, err)
        return self._descriptors

    def close(self) -> None:
        for descriptor in self._descriptors or ():
            with contextlib.suppress(OSError):  # a network filesystem may refuse here what the commands have written
                os.close(descriptor)
        self._descriptors = None

    def end(self, grace_s: float) -> None:
        """Its notice: SIGTERM, and SIGKILL after the grace. No further command is begun."""
        if self.notice:
            return
        self.notice, self.kill_at = True, time.monotonic() + grace_s
        if self.pid:
            processes.kill_tree(self.pid, self.task, signal.SIGTERM)

    def kill(self) -> None:
        self.notice = self.is_killed = True
        self.kill_at = self.end_at = math.inf
        if self.pid:
            processes.kill_tree(self.pid, self.task, signal.SIGKILL)

    def collect(self) -> None:
        """The command has exited: end what it left, and see whether all is over."""
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)  # before it is waited for, its id cannot be another group's
        _, status, _ = os.wait4(self.pid, 0)
        if self.notice:
            processes.kill_marked(*self.task)
        code = os.waitstatus_to_exitcode(status)
        self.pid = 0
        if code != 0:
            self.code = 128 - code if code < 0 else code
        elif self.at + 1 == len(self.commands):
            self.code = 0
        else:
            self.at += 1


def _new_output(path: str) -> tuple[int, str]:
    """A new file; where the name is taken (another spool with the same output directory) a name beside it."""
    candidate = path
    for number in range(1, _OUTPUT_TRIES + 1):
        descriptor = fsops.open_output(candidate)
        if descriptor is not None:
            return descriptor, candidate
        candidate = f"{path}.{os.getpid()}.{number}"
    raise StorageError("create", path, None)


class Errands:
    """All that run now. `turn` it whenever something may have happened."""

    def __init__(self, wake: Callable[[], None], complain: Callable[[str], None], bash: str) -> None:
        self._spawner = Spawner(wake)
        self._complain, self._bash = complain, bash
        self._over: dict[Errand, Callable[[Errand], None]] = {}  # what follows when it is over
        self._killing = False

    @property
    def any(self) -> bool:
        return bool(self._over)

    def pids(self) -> set[int]:
        return {errand.pid for errand in self._over if errand.pid}

    def tasks(self) -> Iterator[str]:
        return (errand.task[1] for errand in self._over)

    def next_at(self) -> float:
        """When a turn is due even if nothing happens."""
        return min((min(each.kill_at, each.retry_at, each.end_at) for each in self._over), default=math.inf)

    def begin(self, errand: Errand, over: Callable[[Errand], None]) -> None:
        """Run it; `over` is called in a later turn, and again in the next ones while it raises StorageError."""
        self._over[errand] = over
        if not errand.commands:
            errand.code = 0
            errand.retry_at = 0.0
        else:
            self._start(errand)

    def _start(self, errand: Errand) -> None:
        errand.retry_at = math.inf
        self._spawner.start(errand, errand.order(self._bash))

    def turn(self) -> bool:
        """Take in what has begun, and heed the limits; True when something is over. Raises StorageError."""
        self._take_in(wait=False)
        now = time.monotonic()
        any_over = False
        for errand, over in list(self._over.items()):
            if now >= min(errand.kill_at, errand.end_at):
                errand.kill()
            if errand.code is not None or (errand.notice and not errand.pid and not self._spawner.in_flight):
                errand.retry_at = now + RETRY_S
                over(errand)
                errand.close()
                del self._over[errand]
                any_over = True
            elif now >= errand.retry_at:
                self._start(errand)
        return any_over

    def _take_in(self, *, wait: bool) -> None:
        for errand, pid, error in self._spawner.outcomes(wait=wait):
            if errand not in self._over:
                continue
            if error is not None:
                self._not_started(errand, error)
                continue
            errand.pid, errand.begun, errand.since = pid, True, math.inf
            if self._killing or errand.is_killed:
                errand.kill()
            elif errand.notice:
                processes.kill_tree(pid, errand.task, signal.SIGTERM)

    def _not_started(self, errand: Errand, error: Exception) -> None:
        """What is wrong with the command itself is its failure; what the node refuses is tried again for a while."""
        now = time.monotonic()
        own_fault = isinstance(error, ValueError) or (isinstance(error, OSError) and error.errno == errno.E2BIG)
        if not own_fault and not isinstance(error, OSError | StorageError):
            raise error
        errand.since = min(errand.since, now)
        if own_fault or now > errand.since + TROUBLE_S:
            errand.trouble, errand.code = f"could not be started: {error}", CODE_CANNOT_START
            return
        self._complain(f"actions cannot be started: {error}")
        errand.retry_at = now + RETRY_S

    def exited(self, pid: int) -> bool:
        """Whether this child, which is to be waited for, is one of these; then it is reaped."""
        if self._spawner.in_flight and pid not in self.pids():
            self._spawner.await_made()  # it may have ended before we heard that it had begun
            self._take_in(wait=False)
        for errand in self._over:
            if errand.pid == pid:
                errand.collect()
                if errand.code is None and not errand.notice:
                    self._start(errand)
                return True
        return False

    def end_all(self, grace_s: float) -> None:
        for errand in self._over:
            errand.end(grace_s)

    def kill_all(self) -> None:
        self._killing = True
        for errand in self._over:
            errand.kill()

    def drop(self, errand: Errand) -> None:
        """Kill it and forget it: nothing follows."""
        while self._spawner.in_flight:
            self._take_in(wait=True)
        if self._over.pop(errand, None) is not None:
            errand.kill()
            processes.kill_marked(*errand.task)
            errand.close()

    def abandon(self) -> None:
        for errand in list(self._over):
            self.drop(errand)

    def close(self) -> None:
        self.abandon()
        self._spawner.close()
