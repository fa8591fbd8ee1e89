"""Runners on two clients of a real NFS server, and what may go wrong there; then a proof. See `scripts/check-nfs`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from evidence import gather
from verdict import Deaths, problems, tally
from workload import JOB, Workload, make

ROOT = Path(__file__).resolve().parents[2]
LEASE_S = 75  # the shortest that there is
TIMEOUT_S = 900.0  # guests without hardware virtualisation are slow
CANNOT = 77
NEEDED = ("click", "filelock", "msgspec", "watchdog", "yaml", "_yaml")  # of the environment, in the guests


class Bed:
    """The testbed, by its command line."""

    def __init__(self, command: str) -> None:
        self.command = command
        self.ctl = Path(self.call("ctl").strip())

    def call(self, *words: str) -> str:
        done = subprocess.run([self.command, *words], stdout=subprocess.PIPE, text=True)
        if done.returncode == CANNOT:
            sys.exit(CANNOT)  # it has said why
        if done.returncode:
            sys.exit(f"check-nfs: {self.command} {' '.join(words)}: returned {done.returncode}")
        return done.stdout

    def shell(self, guest: str, script: str) -> str:
        return self.call("run", guest, "bash", "-c", script)

    def torc(self, guest: str, *words: str, log: Path) -> subprocess.Popen[bytes]:
        """The program in a guest, what it says in a file."""
        script = f"cd /run && PYTHONPATH=/run/app exec python3 -m torc_spool_cli {' '.join(words)}"
        with log.open("ab") as file:
            return subprocess.Popen([self.command, "run", guest, "bash", "-c", script], stdout=file, stderr=file)

    def install(self, guest: str) -> None:
        """What was imported from the host file by file would take a minute to begin."""
        self.shell(guest, f"mkdir -p /run/app && tar -C /run/app -xf {self.ctl}/app.tar")


def pack(ctl: Path) -> None:
    """The program and what it needs, compiled, in a file that guests can read."""
    import click

    packages = Path(click.__file__).parent.parent
    with tempfile.TemporaryDirectory() as made:
        app = Path(made)
        for name in NEEDED:
            shutil.copytree(packages / name, app / name)
        shutil.copytree(ROOT / "torc_spool", app / "torc_spool")
        shutil.copytree(ROOT / "cli", app / "torc_spool_cli")
        subprocess.run([sys.executable, "-m", "compileall", "-q", str(app)], check=True)
        subprocess.run(["tar", "-C", made, "-cf", f"{ctl}/app.tar", "."], check=True)


class Scene:
    """One workflow in a spool of its own, and runners at work on it."""

    def __init__(self, bed: Bed, name: str, jobs: int, seed: int) -> None:
        self.bed, self.name = bed, name
        self.base = bed.ctl / name
        shutil.rmtree(self.base, ignore_errors=True)
        self.logs = self.base / "logs"
        self.logs.mkdir(parents=True)
        script = self.base / "job.sh"
        script.write_text(JOB)
        self.work: Workload = make(jobs, seed, str(script), str(self.logs))
        (self.base / "spec.json").write_text(json.dumps(self.work.spec))
        self.spool = f"/spool/{name}-{time.time_ns()}"  # clients remember what was at a path
        self.runners: dict[str, subprocess.Popen[bytes]] = {}
        self.wait(self.torc("a", "submit", str(self.base / "spec.json"), log="submit"), "submit")

    def log(self, name: str) -> Path:
        return self.base / f"{name}.log"

    def torc(self, guest: str, *words: str, log: str) -> subprocess.Popen[bytes]:
        return self.bed.torc(guest, "--spool", self.spool, *words, log=self.log(log))

    def wait(self, process: subprocess.Popen[bytes], name: str, codes: tuple[int, ...] = (0,)) -> int:
        code = process.wait(TIMEOUT_S)
        if code not in codes:
            sys.exit(f"check-nfs: {self.name}: {name} returned {code}:\n{self.log(name).read_text()}")
        return code

    def run(self, guest: str) -> None:
        words = ("run", "1", "--max-parallel-jobs", "3", "--grace", "2", "--lease", str(LEASE_S))
        self.runners[guest] = self.torc(guest, *words, log=guest)

    def end(self, *guests: str) -> None:
        """Some jobs fail; one who has nothing more to do does not wait for the last jobs of the other."""
        for guest in guests:
            self.wait(self.runners[guest], guest, (1, 3))

    def through(self, guest: str) -> None:
        """Who has nothing more to do leaves, and comes again until it has taken back what the other holds."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.wait(self.runners[guest], guest, (1, 3)) == 3:
            if time.monotonic() > deadline:
                sys.exit(f"check-nfs: {self.name}: {guest} does not take back what the other holds")
            self.run(guest)

    def at_work(self, *guests: str, ended: int = 2) -> None:
        """Wait until some jobs have ended and each of these guests is in the middle of one."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            logs = [log.read_text().splitlines() for log in self.logs.glob("1-[0-9]*")]
            busy = {
                lines[-1].split()[2].split("-")[0] for lines in logs if lines[-1:] and lines[-1].startswith("start ")
            }
            if busy >= set(guests) and sum(line.startswith("end ") for lines in logs for line in lines) >= ended:
                return
            time.sleep(0.1)
        sys.exit(f"check-nfs: {self.name}: no jobs run on {' and '.join(guests)}")

    def judge(self, *dead: str) -> list[str]:
        """What is wrong, by the spool and the jobs' own logs; `dead`: guests to whose runners something was done."""
        shutil.rmtree(self.base / "spool", ignore_errors=True)
        self.bed.shell("srv", f"cp -r {self.spool} {self.base}/spool")
        (root,) = (self.base / "spool").glob("1-*")
        found = gather(root, self.logs)
        names = {path.parent.name for path in root.glob("runners/**/runner.json")}
        pids = {int(name.rsplit("-", 2)[1]) for name in names if name.split("-")[0] in dead}
        wrong = list(problems(self.work.expected, found, Deaths(pids, disk_was_full=False)))
        check = [str(Path(sys.executable).parent / "torc-spool"), "--spool", str(self.base / "spool"), "fsck", "1"]
        fsck = subprocess.run(check, capture_output=True, text=True)
        wrong += [f"fsck: {line}" for line in (fsck.stdout + fsck.stderr).splitlines()] if fsck.returncode else []
        counts = tally(found)
        print(
            f"{self.name}: {counts.jobs} jobs, {counts.attempts} attempts recorded, {counts.lost} lost with their "
            f"runners, {counts.executions} executions"
        )
        return wrong

    def says(self, guest: str, text: str) -> list[str]:
        said = self.log(guest).read_text()
        return [] if text in said else [f"the runner on {guest} did not say {text!r}, but:\n{said}"]


# -- what may go wrong


def drained(scene: Scene) -> list[str]:
    """Two runners share the work."""
    scene.run("a"), scene.run("b")
    scene.at_work("a", "b")
    scene.end("a", "b")
    return scene.judge()


def _away(scene: Scene, leave: Callable[[], object], come_back: Callable[[], object]) -> list[str]:
    """a is away until b, which takes its work back, is through."""
    scene.run("a"), scene.run("b")
    scene.at_work("a", "b")
    leave()
    scene.through("b")
    come_back()
    scene.wait(scene.runners["a"], "a", (4,))
    return [*scene.judge("a"), *scene.says("a", "has taken it back on the evidence: it is silent for")]


def frozen(scene: Scene) -> list[str]:
    """The machine of a stands still for longer than the lease, its clocks too."""
    return _away(scene, lambda: scene.bed.call("freeze", "a"), lambda: scene.bed.call("thaw", "a"))


def hung(scene: Scene) -> list[str]:
    """The same, and its clocks go on."""
    return _away(scene, lambda: scene.bed.call("freeze", "a", "--hang"), lambda: scene.bed.call("thaw", "a"))


def cut(scene: Scene) -> list[str]:
    """The link of a is cut for longer than the lease."""
    return _away(scene, lambda: scene.bed.call("cut", "a"), lambda: scene.bed.call("join", "a"))


def crashed(scene: Scene) -> list[str]:
    """The machine of a loses its power, b takes its work back."""
    scene.run("a"), scene.run("b")
    scene.at_work("a", "b")
    scene.bed.call("crash", "a")
    scene.runners["a"].wait(TIMEOUT_S)
    scene.through("b")
    scene.bed.call("boot", "a")
    scene.bed.install("a")
    return scene.judge("a")


def restarted(scene: Scene) -> list[str]:
    """The server is restarted under load."""
    scene.run("a"), scene.run("b")
    scene.at_work("a", "b")
    scene.bed.call("server-restart")
    scene.end("a", "b")
    return scene.judge()


def gone_for_long(scene: Scene) -> list[str]:
    """The server is away for longer than the lease: nobody is taken for dead for that."""
    scene.run("a"), scene.run("b")
    scene.at_work("a", "b")
    scene.bed.call("server-restart", str(LEASE_S + 25))
    scene.end("a", "b")
    return scene.judge()


class Plan(NamedTuple):
    """A scenario, and how many jobs it takes."""

    act: Callable[[Scene], list[str]]
    jobs: int


SCENARIOS = {
    "drained": Plan(drained, 40),
    "frozen": Plan(frozen, 30),
    "hung": Plan(hung, 30),
    "cut": Plan(cut, 30),
    "crashed": Plan(crashed, 30),
    "restarted": Plan(restarted, 40),
    "gone-for-long": Plan(gone_for_long, 40),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/check-nfs", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of: {', '.join(SCENARIOS)}; all of them")
    parser.add_argument("--vers", choices=("4.2", "3"), default="4.2", help="of NFS (4.2)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of the workflows (1)")
    options = parser.parse_args()
    unknown = set(options.scenarios) - set(SCENARIOS)
    if unknown:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    bed = Bed(os.environ.get("TESTBED_NFS", str(ROOT / "scripts" / "testbed-nfs")))
    bed.call("up", "--vers", options.vers)
    pack(bed.ctl)
    for guest in ("a", "b"):
        bed.install(guest)
    bad = 0
    for name in options.scenarios or SCENARIOS:
        began = time.monotonic()
        wrong = SCENARIOS[name].act(Scene(bed, name, SCENARIOS[name].jobs, options.seed))
        for line in wrong:
            print(f"WRONG: {name}: {line}")
        bad += bool(wrong)
        print(
            f"{name}: {'wrong' if wrong else 'right'}, NFS {options.vers}, {time.monotonic() - began:.0f} s", flush=True
        )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
