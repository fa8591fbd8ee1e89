"""Commands as processes of their own, forked from one that has imported the program already.

A process for each command costs a quarter of a second, most of it imports, and the tests start some thousand. What is
forked here does all that such a process does after its imports: it has its own arguments, environment, directory and
files, and ends as a program ends. What an interpreter reads when it starts (PYTHON…, locale, time zone) it has from
the server, so tests of those start the real program.

Run as a program this file is the server: it takes requests from a socket, one message each, with the three standard
files attached, answers with the number of the process, and later with how it ended.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

_FIXED = ("PYTHON", "LC_", "LANG", "TZ", "LD_")  # what only a new interpreter heeds
_LONGEST = 1 << 18  # of a message


class Forked:
    """A forked command, with as much of subprocess.Popen as tests need."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self._server, self.pid = server, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._look(0.0)

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._look(None if deadline is None else max(0.0, deadline - time.monotonic())) is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            self.returncode = self._server.ended(self.pid, timeout)
        return self.returncode


class ForkServer:
    """The side of the tests: starts the server, and asks it for processes."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._fixed = self._what_is_fixed(environment)
        self._socket, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(its.fileno())], env=environment, pass_fds=[its.fileno()]
            )
        self._ended: dict[int, int] = {}

    def can(self, environment: Mapping[str, str]) -> bool:
        """Whether a process with this environment would be as one that is started anew."""
        return self._fixed == self._what_is_fixed(environment)

    def start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        directory: Path,
        files: Sequence[IO[Any]],
        *,
        own_group: bool,
    ) -> Forked:
        """Fork a process that is this command (its program by path) with these three standard files."""
        wanted = {"command": command, "environment": environment, "directory": str(directory), "own_group": own_group}
        data = json.dumps(wanted).encode()
        assert len(data) < _LONGEST
        socket.send_fds(self._socket, [data], [file.fileno() for file in files])
        while "pid" not in (answer := self._receive()):
            self._ended[answer["ended"]] = answer["code"]
        return Forked(self, answer["pid"])

    def ended(self, pid: int, timeout: float | None) -> int | None:
        """How a process ended; None when it has not within this time, in seconds."""
        while pid not in self._ended and select.select([self._socket], [], [], timeout)[0]:
            answer = self._receive()
            self._ended[answer["ended"]] = answer["code"]
            timeout = 0.0
        return self._ended.pop(pid, None)

    def close(self) -> None:
        self._socket.close()
        self._process.wait()

    def _receive(self) -> dict[str, Any]:
        data = self._socket.recv(_LONGEST)
        assert data, "the server of forked commands is gone"
        return json.loads(data)  # type: ignore[no-any-return]

    @staticmethod
    def _what_is_fixed(environment: Mapping[str, str]) -> dict[str, str]:
        return {key: value for key, value in environment.items() if key.startswith(_FIXED)}


# -- the server -------------------------------------------------------------------------------------------------


def _import_all() -> None:
    import torc_spool_cli
    import watchdog.observers  # noqa: F401

    import torc_spool

    for package in (torc_spool, torc_spool_cli):
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


def _serve(channel: socket.socket) -> Callable[[], None]:
    """Fork as asked until nobody asks any more; comes back in a forked process with what that one is to do."""
    children: dict[int, int] = {}  # descriptors of processes: their numbers
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor != channel.fileno():
                poll.unregister(descriptor)
                pid = children.pop(descriptor)
                os.close(descriptor)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                channel.send(json.dumps({"ended": pid, "code": code}).encode())
                continue
            data, files, _, _ = socket.recv_fds(channel, _LONGEST, 3)
            if not data:
                os._exit(0)
            pid = os.fork()
            if pid == 0:
                return lambda data=data, files=files: _become(json.loads(data), files)  # type: ignore[misc]
            for file in files:
                os.close(file)
            channel.send(json.dumps({"pid": pid}).encode())
            children[watched := os.pidfd_open(pid)] = pid
            poll.register(watched, select.POLLIN)


def _become(wanted: dict[str, Any], files: list[int]) -> None:
    if wanted["own_group"]:
        os.setpgid(0, 0)
    for descriptor, file in enumerate(files):
        os.dup2(file, descriptor)
    os.closerange(3, 1024)
    os.chdir(wanted["directory"])
    os.environ.clear()
    os.environ.update(wanted["environment"])
    sys.argv = wanted["command"]
    from torc_spool_cli import main

    main.main() if os.path.basename(sys.argv[0]) == "torc-spool" else main.job_runner()


if __name__ == "__main__":
    _import_all()
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))()
