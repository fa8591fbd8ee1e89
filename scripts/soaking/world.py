"""The bad world: runners that are started, killed, frozen, declared dead while they live, and a disk that fills up."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil

PROGRAM = Path(sys.executable).parent / "torc-spool"
TIMEOUT_S = 180.0
GAVE_UP = 2  # the exit code of a runner that its filesystem does not serve
SIZE_MB = 64  # of the tmpfs: workflows that are judged make room for others


class Runner:
    """One `torc-spool run`."""

    def __init__(self, spool: Path, talk: Path, words: list[str]) -> None:
        self.talk = talk
        with talk.open("wb") as file:
            command = [str(PROGRAM), "--spool", str(spool), "run", *words]
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, process_group=0
            )
        self.pid = self.process.pid
        self.thaw_at: float | None = None

    runner: Runner
    left: list[tuple[int, str]]  # workflow, name


class World:
    """What happens to the runners of one spool. Everything that was done is counted."""

    def __init__(self, base: Path, size: int, seed: int) -> None:
        self.base, self.spool, self.logs = base, base / "spool", base / "logs"
        self._size, self._random = size, random.Random(seed)
        self.did: Counter[str] = Counter()
        self.dead: set[int] = set()  # pids of runners that did not end of themselves
        self.wrong: list[str] = []
        self.runners: list[Runner] = []
        self._count = 0
        self.ballast: Path | None = None
        self._ballast_until: float | None = None
        self.disk_was_full = False
        self._fill_is_due = False
        for directory in (base, self.spool, self.logs, base / "talk"):
            directory.mkdir(parents=True, exist_ok=True)

    # -- the disk -------------------------------------------------------------------------------------------

    def mount(self) -> str | None:
        """Put the spool on a small filesystem of its own; why not, where that cannot be."""
        command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m,mode=755", "torc-spool-soak", str(self.spool)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            return str(error)
        if done.returncode:
            return done.stderr.strip().split("\n")[0]
        self.ballast = self.spool / ".ballast"
        return None

    def unmount(self) -> None:
        """Take the small filesystem away; what was in it is copied into its place."""
        if self.ballast is None:
            return
        copy = self.base / "copy"
        subprocess.run(["cp", "-a", f"{self.spool}/.", copy], check=True)
        subprocess.run(["umount", str(self.spool)], check=True)
        self.spool.rmdir()
        copy.rename(self.spool)

    def _fill(self, seconds: float) -> None:
        assert self.ballast is not None
        self._fill_is_due = False
        with self.ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
        self._ballast_until = time.monotonic() + seconds
        self.disk_was_full = True

    def _make_room(self) -> None:
        if self.ballast is not None:
            self.ballast.unlink(missing_ok=True)
        self._ballast_until = None

    def is_at_rest(self, root: Path) -> bool:
        """Whether no runner that lives holds a directory of a workflow, and there is room, and will be."""
        alive = [f"-{runner.pid}-" for runner in self.runners if runner.process.poll() is None]
        names = [each.name for state in ("pending", "running") for each in (root / state).iterdir()]
        held = any(pid in name for name in names for pid in alive)
        return self._ballast_until is None and not self._fill_is_due and not held

    # -- the runners ----------------------------------------------------------------------------------------

    def start(self, *words: str) -> Runner:
        self._count += 1
        runner = Runner(self.spool, self.base / "talk" / f"{self._count}", list(words))
        self.runners.append(runner)
        return runner

    def fill_up(self) -> None:
        """As many runners as there have to be, of both kinds."""
        for runner in [each for each in self.runners if each.process.poll() is not None]:
            self.ended(runner)
        while len(self.runners) < self._size:
            kind = self._random.choice((["--max-parallel-jobs", "3"], ["--num-cpus", "3", "--memory-gb", "1"]))
            # jobs that are made to fail at once are no sign of a sick host here
            self.start("--wait-for-new-jobs", "2", "--sick-after", "0", *kind)

    def ended(self, runner: Runner) -> None:
        """Look at how a runner has ended."""
        self.runners.remove(runner)
        before = len(self.wrong)
        self._look_at_end(runner)
        if len(self.wrong) == before:
            runner.talk.unlink()

    def _look_at_end(self, runner: Runner) -> None:
        code, talk = runner.process.wait(), runner.talk.read_text(errors="replace")
        if "Traceback" in talk or "Exception ignored" in talk:
            self.wrong.append(f"a runner shows a traceback: {runner.talk}")
        if code in (0, 1, 3) or runner.pid in self.dead:
            return
        if code == GAVE_UP and self.disk_was_full:
            self.dead.add(runner.pid)
            self.did["gave up"] += 1
            return
        self.wrong.append(f"a runner ended with {code}, and nothing was done to it: {runner.talk}")

    def hurt(self, *, fill: bool) -> None:
        """One thing, at random; whether the disk may get full as well."""
        able = [runner for runner in self.runners if runner.thaw_at is None and runner.process.poll() is None]
        if not able:
            return
        runner = self._random.choice(able)
        kinds = ["kill", "kill", "kill all", "freeze", "freeze to death", "say dead", *["fill"] * bool(self.ballast)]
        kind = self._random.choice(kinds)
        if self._fill_is_due and fill:
            kind = "fill"
        if kind == "fill" and (self._ballast_until is not None or not fill):
            self._fill_is_due = not fill
            return
        self.did[kind] += 1
        if kind in ("kill", "kill all"):
            self._kill(runner, with_children=kind == "kill all")
        elif kind == "freeze":
            runner.process.send_signal(signal.SIGSTOP)
            runner.thaw_at = time.monotonic() + self._random.uniform(0.5, 4)
        elif kind == "freeze to death":
            runner.process.send_signal(signal.SIGSTOP)
            self._say_dead(runner)
            runner.thaw_at = time.monotonic() + self._random.uniform(0, 3)
        elif kind == "say dead":
            self._say_dead(runner)
        else:
            self._fill(self._random.uniform(0.5, 3))

    def _kill(self, runner: Runner, *, with_children: bool) -> None:
        """SIGKILL; the children live on, or die at the same time."""
        children: list[psutil.Process] = []
        if with_children:
            with contextlib.suppress(psutil.Error):
                children = psutil.Process(runner.pid).children(recursive=True)
        self.dead.add(runner.pid)
        runner.process.kill()
        for child in children:
            with contextlib.suppress(psutil.Error):
                child.kill()

    def _say_dead(self, runner: Runner) -> None:
        """As a person who is wrong: in one of its workflows or in all."""
        names = [path for path in self.spool.glob(f"[0-9]*/runners/*-{runner.pid}-*") if path.is_dir()]
        for path in self._random.sample(names, self._random.randint(1, len(names)) if names else 0):
            self.dead.add(runner.pid)
            workflow = path.parent.parent.name.split("-")[0]
            done = self.torc("recover", workflow, "--dead", path.name)
            self.did["said dead"] += done.returncode == 0

    def heal(self, *, all_of_it: bool = False) -> None:
        """Let go on, and make room, what is due."""
        now = time.monotonic()
        self._fill_is_due = self._fill_is_due and not all_of_it
        for runner in self.runners:
            if runner.thaw_at is not None and (all_of_it or now >= runner.thaw_at):
                runner.process.send_signal(signal.SIGCONT)
                runner.thaw_at = None
        if self._ballast_until is not None and (all_of_it or now >= self._ballast_until):
            self._make_room()

    def torc(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command, to its end. One that the full disk refuses says so; a traceback is wrong."""
        command = [str(PROGRAM), "--spool", str(self.spool), *words]
        # a group of its own: Ctrl-C is meant for the soak
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
        ) as process:
            try:
                said = process.communicate(timeout=TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        done = subprocess.CompletedProcess(command, process.returncode, *said)
        if done.returncode and self.disk_was_full:
            self.dead.add(process.pid)  # a recovery may have been cut short: who finishes it takes this one for dead
        if "Traceback" in done.stderr:
            self.wrong.append(f"{' '.join(words)} shows a traceback: {done.stderr}")
        return done

    def stop(self) -> None:
        """End all that still runs: an accident of ours."""
        for runner in self.runners:
            with contextlib.suppress(ProcessLookupError):
                os.kill(runner.pid, signal.SIGCONT)
                runner.process.terminate()
        for runner in self.runners:
            with contextlib.suppress(subprocess.TimeoutExpired):
                runner.process.wait(30)
            runner.process.kill()
