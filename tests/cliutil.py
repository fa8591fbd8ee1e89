"""A laboratory for tests with real processes: a spool of its own, commands, runners, jobs that wait to be let go.

Nothing here sleeps to let something happen: `wait_until` polls a condition up to a deadline, and a job that has to
last waits at a `Gate`.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import msgspec
import psutil
import pytest
from forkserver import Forked, ForkServer

from torc_spool import naming, processes, report
from torc_spool import spec as specs
from torc_spool.model import OUTCOMES, Job, Status, WorkflowSpec
from torc_spool.spool import Spool
from torc_spool.store import Store
from torc_spool.submission import Verbatim

PROGRAMS = Path(sys.executable).parent  # where the console scripts were installed
TIMEOUT_S = float(os.environ.get("TEST_TIMEOUT_S", "60"))  # a guard against a hang, never a measure

NOBODY = 65534  # some other user

_AS_USER = """
import encodings.ascii, encodings.latin_1, importlib, os, pkgutil, sys
import torc_spool, torc_spool_cli, watchdog.events, watchdog.observers.api, watchdog.observers.inotify
for package in (torc_spool, torc_spool_cli):  # while we may still read them
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
user = int(sys.argv[1])
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
torc_spool_cli.main.main(sys.argv[2:])
"""

T = TypeVar("T")

_fork_server: ForkServer | None = None  # of this process of the tests


def wait_until(condition: Callable[[], T], what: str, timeout_s: float = TIMEOUT_S) -> T:
    """The first true value of the condition; fails the test when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.01)


def no_complaint(stderr: str) -> None:
    """A user must never see a traceback, nor what the interpreter says of forgotten files."""
    assert "Traceback" not in stderr, stderr
    assert "Exception ignored" not in stderr, stderr
    assert "Warning" not in stderr, stderr


class Done(NamedTuple):
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    def sentence(self) -> str:
        """The one line on stderr, without the program's name."""
        (line,) = [line for line in self.stderr.splitlines() if line and not line.startswith(("Usage:", "Try "))]
        return line.removeprefix("torc-spool: ").removeprefix("Error: ")


class Background:
    """A command that runs while the test does something else."""

    def __init__(self, process: subprocess.Popen[str] | Forked, output: Path) -> None:
        self.process, self.pid, self._output = process, process.pid, output

    @property
    def stdout(self) -> str:
        return Path(f"{self._output}.out").read_text()

    @property
    def stderr(self) -> str:
        return Path(f"{self._output}.err").read_text(errors="replace")

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL for this process alone: its children live on."""
        self.process.kill()
        self.process.wait(TIMEOUT_S)

    def wait(self, code: int | None = 0) -> Done:
        """Its end, with this exit code (None: any)."""
        try:
            self.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {TIMEOUT_S:g} s; stderr so far:\n{self.stderr}") from None
        done = Done(self.process.returncode, self.stdout, self.stderr)
        if code is not None:
            assert done.code == code, f"exit code {done.code}, expected {code}\n{done.stdout}\n{done.stderr}"
        no_complaint(done.stderr)
        return done


class Gate:
    """Where jobs wait until the test lets them go. It opens by itself when the test is over."""

    def __init__(self, directory: Path, name: str = "gate") -> None:
        self._path, self._arrived = directory / name, directory / f"{name}.arrived"
        self._arrived.mkdir()
        os.mkfifo(self._path)
        # open for both, so that neither side ever waits in open(2)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)

    @property
    def wait(self) -> str:
        """A shell command that says that it is here, then waits."""
        return f'touch {shlex.quote(str(self._arrived))}/"$TORC_JOB_NAME"; {self.only_wait}'

    @property
    def only_wait(self) -> str:
        return f"read -r _ < {shlex.quote(str(self._path))} || true"

    def arrived(self) -> set[str]:
        """The names of the jobs that have come so far."""
        return set(os.listdir(self._arrived))

    def await_jobs(self, *names: str) -> None:
        wait_until(lambda: self.arrived() >= set(names), f"jobs {names} are at the gate; {self.arrived()} are")

    def open(self) -> None:
        """Let all go, those that come later too."""
        free = self._path.with_suffix(".open")
        free.write_bytes(b"\n" * 10_000)
        free.rename(self._path)
        os.write(self._descriptor, b"\n" * 10_000)

    def close(self) -> None:
        os.close(self._descriptor)


class Lab:
    """One test's spool and everything that runs in it."""

    def __init__(self, base: Path) -> None:
        self.base, self.spool, self.cwd = base, base / "spool", base / "work"
        self.cwd.mkdir()
        self.env = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("TORC_", "SLURM_", "CUDA_", "ROCR_", "COV_", "PYTEST_"))
        }
        self.env |= {"TORC_SPOOL_DIR": str(self.spool), "PYTHONWARNINGS": "error"}
        self._started: list[Background] = []
        self._gates: list[Gate] = []

    # -- commands -------------------------------------------------------------------------------------------

    def command(self, *args: object, program: str = "torc-spool") -> list[str]:
        return [str(PROGRAMS / program), *map(str, args)]

    def torc(
        self,
        *args: object,
        code: int | None = 0,
        program: str = "torc-spool",
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        stdin: str = "",
        user: int | None = None,
        **more: Any,
    ) -> Done:
        """Run a command to its end; it must have this exit code (None: any) and no traceback.

        With `user` (when we are root) it runs as that user.
        """
        command = self.command(*args, program=program)
        if user is not None:
            command[:1] = [sys.executable, "-c", _AS_USER, str(user)]
        if user is None and not more and self._server(self._env(env)):
            done = self._forked(command, self._env(env), cwd or self.cwd, stdin)
        else:
            started = subprocess.run(
                command,
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                env=self._env(env),
                cwd=cwd or self.cwd,
                timeout=TIMEOUT_S,
                **more,
            )
            done = Done(started.returncode, started.stdout, started.stderr)
        if code is not None:
            assert done.code == code, f"exit code {done.code}, expected {code}\n{done.stdout}{done.stderr}"
        no_complaint(done.stderr)
        return done

    def start(
        self,
        *args: object,
        program: str = "torc-spool",
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        **more: Any,
    ) -> Background:
        """Start a command and go on."""
        output = self.base / f"background-{len(self._started)}"
        with contextlib.ExitStack() as stack:
            files: list[IO[str]] = [stack.enter_context(open(f"{output}{end}", "w")) for end in (".out", ".err")]
            command, environment = self.command(*args, program=program), self._env(env)
            server = None if more else self._server(environment)
            process: subprocess.Popen[str] | Forked
            if server is not None:
                files.insert(0, stack.enter_context(open(os.devnull)))
                process = server.start(command, environment, cwd or self.cwd, files, own_group=True)
            else:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=files[0],
                    stderr=files[1],
                    text=True,
                    env=environment,
                    cwd=cwd or self.cwd,
                    process_group=0,
                    **more,
                )
        self._started.append(Background(process, output))
        return self._started[-1]

    def _server(self, environment: Mapping[str, str]) -> ForkServer | None:
        """The server of forked commands, where a process with this environment would be as one that is started."""
        global _fork_server
        if _fork_server is None:
            _fork_server = ForkServer(self.env)
            atexit.register(_fork_server.close)
        return _fork_server if _fork_server.can(environment) else None

    def _forked(self, command: list[str], environment: Mapping[str, str], cwd: Path, stdin: str) -> Done:
        assert _fork_server is not None
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(tempfile.TemporaryFile("w+", errors="replace")) for _ in range(3)]
            files[0].write(stdin)
            files[0].seek(0)
            process = _fork_server.start(command, environment, cwd, files, own_group=False)
            try:
                code = process.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            said = []
            for file in files[1:]:
                file.seek(0)
                said.append(file.read())
        return Done(code, *said)

    def run(self, *args: object, code: int | None = 0, **more: Any) -> Done:
        """`torc-spool run` to its end."""
        return self.torc("run", *args, code=code, **more)

    def gate(self, name: str = "gate") -> Gate:
        self._gates.append(Gate(self.base, name))
        return self._gates[-1]

    def _env(self, changes: Mapping[str, str | None] | None) -> dict[str, str]:
        both = {**self.env, **(changes or {})}
        return {key: value for key, value in both.items() if value is not None}

    # -- workflows ------------------------------------------------------------------------------------------

    def spec(self, *jobs: str | dict[str, Any], path: str = "spec.json", **top: Any) -> Path:
        """A specification as a file. A job that is only a command is named j1, j2 …"""
        listed = [
            {"name": f"j{number}", "command": job} if isinstance(job, str) else {"command": "true", **job}
            for number, job in enumerate(jobs, 1)
        ]
        file = self.cwd / path
        file.write_text(json.dumps({"name": "flow", **top, "jobs": listed}))
        return file

    def submit(self, *jobs: str | dict[str, Any], **top: Any) -> int:
        """Submit by a call of the library, since a process for each costs a quarter of a second."""
        file = self.spec(*jobs, path=f".submitted-{time.monotonic_ns()}.json", **top)
        parsed, data = specs.load(str(file))
        return Spool(str(self.spool)).submit(parsed, Verbatim(data, "spec.json"), cwd=str(self.cwd))

    def submit_jobs(self, *jobs: Job, **more: Any) -> int:
        """Submit jobs as records, numbered here; the first that has no name is j1, and so on."""
        numbered = [
            msgspec.structs.replace(job, id=number, name=job.name or f"j{number}") for number, job in enumerate(jobs, 1)
        ]
        spec = WorkflowSpec(name="flow", jobs=tuple(numbered), **more)
        return Spool(str(self.spool)).submit(spec, Verbatim(b"{}", "spec.json"), cwd=str(self.cwd))

    def root(self, workflow: int = 1) -> Path:
        (root,) = self.spool.glob(f"{workflow}-*")
        return root

    def store(self, workflow: int = 1) -> Store:
        return Store.open(str(self.root(workflow)))

    def jobs(self, workflow: int = 1) -> dict[str, dict[str, Any]]:
        """The rows of `jobs list` by name."""
        return {row["name"]: row for row in report.jobs(self.store(workflow))}

    def job(self, name: str, workflow: int = 1) -> dict[str, Any]:
        """The row of `jobs show`."""
        store = self.store(workflow)
        (record,) = [record for record in store.records() if record.name == name]
        return report.job(store, record)

    def pid(self, name: str) -> int:
        """Of a job that runs: the journal has its process only a moment after it has begun."""
        return wait_until(lambda: self.job(name)["pid"], f"{name} is in the journal")

    def states(self, workflow: int = 1) -> dict[str, str]:
        return {name: row["status"] for name, row in self.jobs(workflow).items()}

    def ls(self, directory: str, workflow: int = 1) -> list[str]:
        """The names in a directory of the workflow, but those that begin with a dot."""
        return sorted(name for name in os.listdir(self.root(workflow) / directory) if not name.startswith("."))

    def file(self, name: str, workflow: int = 1) -> Path:
        """Where a job's file is."""
        path = self.job(name, workflow)["file"]
        assert path is not None
        return Path(path)

    def await_states(self, workflow: int = 1, **wanted: str) -> None:
        def reached() -> bool:
            states = self.states(workflow)
            return all(states[name] == state for name, state in wanted.items())

        wait_until(reached, f"states {wanted}")

    def runner(self, workflow: int = 1) -> str:
        """The name of the one runner that is at work."""

        def named() -> str | None:
            found = [row["name"] for row in report.runners(self.store(workflow)) if row["state"] == "alive"]
            return found[0] if len(found) == 1 else None

        return wait_until(named, "one runner is at work")

    def check(self, workflow: int = 1) -> None:
        """What the format promises of a workflow in which nobody is at work."""
        root, store = self.root(workflow), self.store(workflow)
        seen: dict[int, list[str]] = {}
        for path in root.rglob("*.json"):
            if path.relative_to(root).parts[0] in ("blocked", "ready", "pending", "running", "done", "held"):
                name = naming.parse_job(path.name)
                seen.setdefault(name.id, []).append(str(path))
                content = store.read_job(str(path), name.id)
                assert content is not None
                numbers = [attempt.attempt for attempt in content.job.attempts]
                assert numbers == sorted(set(numbers)), f"attempts {numbers} of {path}"
                state = path.parent.name
                if state in (Status.COMPLETED, Status.FAILED, Status.TERMINATED):
                    last = content.job.attempts[-1]
                    assert (last.attempt, str(last.outcome)) == (name.attempt, state), f"{path} says {last}"
        twice = {job: paths for job, paths in seen.items() if len(paths) > 1}
        assert not twice, f"jobs in two places: {twice}"
        total = len(seen) + len({key[0] for each in self.ls("aside", workflow) if (key := naming.job_id(each))})
        assert total >= store.workflow.num_jobs, f"{total} of {store.workflow.num_jobs} jobs are left"
        temporaries = [path for path in root.rglob(".*.tmp") if path.parent.parent.name in ("pending", "running")]
        assert not temporaries

    def finished(self, workflow: int = 1) -> bool:
        places = self.store(workflow).snapshot().values()
        return (
            all(place.status in OUTCOMES for place in places) and len(places) == self.store(workflow).workflow.num_jobs
        )

    # -- processes ------------------------------------------------------------------------------------------

    def left(self) -> list[psutil.Process]:
        """Processes of jobs of this spool that live."""
        mark = str(self.spool)
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                environ = process.environ()
                of_a_job = environ.get("TORC_SPOOL_DIR") == mark and "TORC_TASK" in environ
                if of_a_job and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def close(self) -> list[str]:
        """End everything; what jobs had left although every runner had ended by itself is named."""
        clean = all(not background.alive and background.process.returncode >= 0 for background in self._started)
        for background in self._started:
            if background.alive:
                background.kill()
        left = [] if not clean else [f"{process.pid} {process.cmdline()}" for process in _alive(self.left())]
        wait_until(lambda: not _kill_all(self.left()), "all processes of the test are gone")
        for gate in self._gates:
            gate.close()
        return left


def _alive(found: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in found if process.is_running()]


def _kill_all(found: list[psutil.Process]) -> bool:
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
    return bool(found)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A spool of one's own; fails the test when a job's processes outlive all runners."""
    laboratory = Lab(tmp_path)
    yield laboratory
    left = laboratory.close()
    assert not left, f"processes of jobs were left: {left}"


def gone(pid: int) -> bool:
    """Whether this process has ended, or is only waited for."""
    return processes.start_time(pid) is None


def pid_in(path: Path) -> int:
    """The pid that a job writes into a file, once it is there."""
    return int(wait_until(lambda: path.exists() and re.fullmatch(r"(\d+)\n", path.read_text()), f"a pid in {path}")[1])
