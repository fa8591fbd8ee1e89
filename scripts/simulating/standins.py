"""What stands in for the machine: the clock, the hosts, processes of jobs, the lock server. All else is the program."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import FunctionType
from typing import Any
from unittest import mock

import filelock
from world import World

from torc_spool import children, fsops, mounts, naming, processes, runner
from torc_spool.executor import Executor
from torc_spool.model import Status
from torc_spool.spawn import Order, Outcome

_pids = itertools.count(1)
_REAL = {"monotonic": time.monotonic, "time": time.time, "sleep": time.sleep}
# what all processes read of the same names is read once: time for computing is not charged
_PURE = ("job_id", "parse_job", "owners", "is_runner")
_world: World | None = None


def _of_now() -> World:
    assert _world is not None
    return _world


class SimulatedSpawner:
    """Starts no process, but makes the files that it would write to."""

    def __init__(self) -> None:
        self._outcomes: list[Outcome] = []

    @property
    def in_flight(self) -> int:
        return len(self._outcomes)

    def start(self, token: Any, order: Order) -> None:
        for descriptor in order.prepare()[1:]:
            os.close(descriptor)
        self._outcomes.append(Outcome(token, next(_pids), None))

    def outcomes(self, *, wait: bool = False) -> list[Outcome]:  # noqa: ARG002
        found, self._outcomes = self._outcomes, []
        return found

    def await_made(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def close(self) -> None:
        pass


class SimulatedExecutor(Executor):
    """Jobs that last as long as their command says (`sleep 12.5`) and always complete."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._spawner = SimulatedSpawner()  # type: ignore[assignment]

    def _ends(self) -> dict[int, float]:
        return {pid: each.started_clock + float(each.job.command.split()[1]) for pid, each in self._running.items()}

    def _reap(self) -> bool:
        ended = sorted((end, pid) for pid, end in self._ends().items() if end <= time.monotonic())
        for end, pid in ended:
            execution = self._running.pop(pid)
            execution.attempt = execution._attempt(Status.COMPLETED, 0, None, end - execution.started_clock)
            self._record(execution)
        return bool(ended)

    def _put_away_orphans(self) -> None:
        self._orphans_at = math.inf

    def next_at(self) -> float:
        started = 0.0 if self._launching else math.inf  # another turn takes it in
        return min(super().next_at(), started, *self._ends().values(), math.inf)


class SimulatedWakeup:
    """Time alone wakes a runner: on a network filesystem no event tells of what others do."""

    def __init__(self, _on_stop: Callable[[int], None]) -> None:
        self._watched: set[str] = set()

    def __enter__(self) -> SimulatedWakeup:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def wait(self, seconds: float) -> None:
        world = _of_now()
        me = world.current
        assert me is not None
        world.sleep_until(me.clock + max(seconds, 1e-6))

    def changes(self) -> set[str]:
        return set()

    def poke(self) -> None:
        pass

    def watch(self, directories: Iterable[str]) -> bool:
        new = set(directories) - self._watched
        self._watched |= new
        return bool(new)


@contextmanager
def installed(world: World) -> Iterator[None]:
    """The program runs in this world meanwhile."""
    global _world
    _world = world
    patches: list[Any] = [
        *(mock.patch.object(time, name, _clocked(name)) for name in ("monotonic", "time")),
        mock.patch.object(time, "clock_gettime", lambda _which: time.monotonic()),
        mock.patch.object(time, "sleep", _sleep),
        mock.patch.object(os, "utime", _utime),
        mock.patch.object(os, "listdir", _listdir),
        mock.patch.object(fsops, "fault", world.call),
        mock.patch.object(fsops, "create", _create),
        mock.patch.object(mounts, "is_network", lambda _path: True),
        mock.patch.object(filelock, "lock_descriptor", _locking(filelock.lock_descriptor)),
        mock.patch.object(filelock, "unlock_descriptor", _locking(filelock.unlock_descriptor)),
        mock.patch.object(processes, "host_name", _host),
        mock.patch.object(processes, "boot_id", lambda: f"boot of {_host()}"),
        mock.patch.object(children, "set_subreaper", lambda: None),
        mock.patch.object(children, "close_on_exec_from", lambda _first: None),
        mock.patch.object(processes, "kill_marked", lambda *_arguments, **_options: 0),
        *(mock.patch.object(naming, name, functools.cache(getattr(naming, name))) for name in _PURE),
        mock.patch.object(runner, "Executor", SimulatedExecutor),
        mock.patch.object(runner, "Wakeup", SimulatedWakeup),
        *_defaults(),
        *_properties(),
    ]
    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield


def _clocked(name: str) -> Callable[[], float]:
    real = _REAL[name]

    def read() -> float:
        current = _of_now().current
        return real() if current is None else current.clock

    return read


def _sleep(seconds: float) -> None:
    world = _of_now()
    assert world.current is not None
    world.sleep_until(world.current.clock + seconds)


def _host() -> str:
    current = _of_now().current
    return "here" if current is None else current.host


_set_times = os.utime


def _utime(path: Any, times: Any = None, **options: Any) -> None:
    """The filesystem's clock is the computed one."""
    current = _of_now().current
    if current is not None and times is None and not options:
        times = (current.clock, current.clock)
    _set_times(path, times, **options)


_list = os.listdir


def _listdir(path: Any = ".") -> list[Any]:
    found = _list(path)
    _of_now().listed(str(path), len(found))
    return found


_make = fsops.create


def _create(path: str, data: bytes = b"", mode: int = 0o644) -> bool:
    made = _make(path, data, mode)
    if made:
        _utime(path)
    return made


def _locking(real: Callable[..., Any]) -> Callable[..., Any]:
    """On a network filesystem the lock is another server's answer."""

    def ask(*arguments: Any, **options: Any) -> Any:
        _of_now().call("lock" if real.__name__.startswith("lock") else "unlock", "lock")
        return real(*arguments, **options)

    return ask


def _defaults() -> Iterator[Any]:
    """Clocks that stand as defaults of parameters were bound when the program was loaded."""
    by_real = {real: name for name, real in _REAL.items()}
    for module in [each for name, each in sys.modules.items() if name.startswith("torc_spool.")]:
        functions = [each for each in vars(module).values() if isinstance(each, FunctionType)]
        for kind in [each for each in vars(module).values() if inspect.isclass(each)]:
            functions += [each for each in vars(kind).values() if isinstance(each, FunctionType)]
        for function in {id(each): each for each in functions}.values():
            named = function.__kwdefaults__ or {}
            changed = {key: _stand_in(by_real[value]) for key, value in named.items() if _is_clock(value, by_real)}
            if changed:
                yield mock.patch.object(function, "__kwdefaults__", {**named, **changed})


def _properties() -> Iterator[Any]:
    """Until Python 3.12 all objects of a class compute a cached property under one lock: who waits for the server with
    it would be waited for by the one whose turn it is."""
    for module in [each for name, each in sys.modules.items() if name.startswith("torc_spool.")]:
        for kind in {id(each): each for each in vars(module).values() if inspect.isclass(each)}.values():
            for each in vars(kind).values():
                if isinstance(each, functools.cached_property) and hasattr(each, "lock"):
                    yield mock.patch.object(each, "lock", nullcontext())


def _is_clock(value: object, known: dict[Any, str]) -> bool:
    return callable(value) and isinstance(value, type(time.time)) and value in known


def _stand_in(name: str) -> Callable[..., Any]:
    return _sleep if name == "sleep" else _clocked(name)
