"""Damage at rest: what cannot be understood is set aside and said, and nothing else is disturbed."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cliutil
import pytest
from cliutil import NOBODY, TIMEOUT_S, Lab, wait_until

from torc_spool import report

lab = cliutil.lab
slow = partial(pytest.param, marks=pytest.mark.slow)

ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not ROOT, reason="needs root, to make files of another user and to mount")


# --- a job's file


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def replaced(**fields: Any) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return damage


def becomes(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.rename(path.parents[3] / "kept")
        make(path)

    return damage


def socket_at(path: Path) -> None:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)


def directory_at(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_text("x")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "torn": (torn, "is no job's JSON"),
    "binary": (lambda path: path.write_bytes(b"\x00\xff" * 99), "is no job's JSON"),
    "not UTF-8": (lambda path: path.write_bytes(path.read_bytes().replace(b"damaged", b"\xff")), "is no job's JSON"),
    "larger than any": (lambda path: os.truncate(path, 1 << 40), "is no job's JSON"),
    "a list": (lambda path: path.write_text("[]"), "is no job's JSON"),
    "nested too deep": (lambda path: path.write_text('{"x":' + "[" * 100_000), "is no job's JSON"),
    "a field of another type": (replaced(attempts=None), "is no job's JSON"),
    "of another job": (replaced(id=1), "its name says job 2, its content job 1"),
    "a version from the future": (replaced(version=2, news=[1]), "is of version 2"),
    "a symbolic link": (becomes(lambda path: path.symlink_to(path.parents[3] / "kept")), "is a symbolic link"),
    "a dangling link": (becomes(lambda path: path.symlink_to("nowhere")), "is a symbolic link"),
    "a FIFO": (becomes(os.mkfifo), "is not a regular file"),
    "a socket": (becomes(socket_at), "is not a regular file"),
    "a directory": (becomes(directory_at), "is not a regular file"),
    "of another user": (lambda path: os.chown(path, NOBODY, NOBODY), "belongs to user 65534"),
}


SOON = ("empty", "torn", "of another job", "a version from the future", "a symbolic link", "a FIFO", "a directory")


@pytest.mark.parametrize(
    "what",
    [
        *SOON,
        pytest.param("of another user", marks=as_root),
        *(slow(what) for what in DAMAGES if what not in (*SOON, "of another user")),
    ],
)
def test_a_job_that_cannot_be_understood_is_set_aside_and_the_others_run(lab: Lab, what: str) -> None:
    lab.submit(
        "true",
        {"name": "damaged", "command": f"touch {lab.base}/ran", "priority": 5},
        {"name": "next", "depends_on": ["damaged"]},
        "true",
    )
    damage, why = DAMAGES[what]
    file = lab.file("damaged")
    damage(file)
    done = lab.run(1, "-f", "json", code=3)
    assert lab.states() == {"j1": "completed", "damaged": "set_aside", "next": "blocked", "j4": "completed"}
    (aside,) = lab.ls("aside")
    assert aside.startswith(file.name)
    assert f"set aside: {file.name} " in done.stderr
    assert why in done.json["set_aside"][0]
    assert not (lab.base / "ran").exists()
    left = {row["name"]: row["reason"] for row in done.json["left"]}
    assert set(left) == {"damaged", "next"}
    assert "set aside" in left["damaged"]
    if what in ("empty", "a directory"):  # it is made anew from the record, and what was set aside is kept
        lab.torc("retry", 1, "damaged")
        lab.run(1)
        assert (lab.base / "ran").exists()
        assert [name for name in os.listdir(lab.root() / "aside") if aside in name]


FOREIGN = {
    "a text": b"README",
    "not UTF-8": b"\xff\xfe\n",
    "almost a job": b"999999-000000001.1-c1g0n1m1t0-\xff.json",
    "a job of a number too large": b"999999-9999999999.1-c1g0n1m1t0-x.json",
    "no attempt": b"999999-000000001.0-c1g0n1m1t0-x.json",
    "unlikely needs": b"999999-000000001.1-c9999999g0n1m1t0-x.json",
    "long": b"x" * 255,
    "control characters": b"\x1b[2J\n",
}


@pytest.mark.parametrize("directory", ["ready/any", "done/completed", slow("blocked"), slow("ready")])
def test_foreign_files_are_set_aside_and_disturb_nothing(lab: Lab, directory: str) -> None:
    lab.submit("true", "true", {"name": "next", "depends_on": ["j1"]})
    for name in FOREIGN.values():
        (lab.root() / directory / os.fsdecode(name)).write_text("not ours")
    (lab.root() / directory / ".hidden").write_text("nobody looks at it")
    done = lab.run(1, "-f", "json")
    assert lab.states() == {"j1": "completed", "j2": "completed", "next": "completed"}
    assert len(os.listdir(lab.root() / "aside")) == len(done.json["set_aside"]) == len(FOREIGN)
    assert all((lab.root() / "aside" / name).read_text() == "not ours" for name in os.listdir(lab.root() / "aside"))
    assert (lab.root() / directory / ".hidden").exists()
    assert report.status(lab.store())["set_aside"] == len(FOREIGN)


@pytest.mark.slow
def test_foreign_files_anywhere_hinder_no_command(lab: Lab) -> None:
    lab.submit("true", "exit 1")
    for directory in ("held", "pending", "running", "requests", "runners", "output", "aside", "."):
        for name in FOREIGN.values():
            (lab.root() / directory / os.fsdecode(name)).write_text("not ours")
        (lab.root() / directory / "some directory").mkdir()
    lab.run(1, code=1)
    assert lab.states() == {"j1": "completed", "j2": "failed"}
    for words in ("recover 1", "hold 1", "retry 1", "cancel 1", "retry 1 j2", "set-priority 1 j2 3"):
        lab.torc(*words.split())
    for words in ("status 1", "jobs list 1", "jobs show 1 j2", "results list 1", "workflows list", "preview 1"):
        lab.torc(*words.split(), "-f", "json")
    lab.run(1, code=1)
    assert lab.jobs()["j2"]["attempt"] == 3


def test_a_damaged_file_anywhere_is_only_damaged_for_its_own_job(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(
        {"name": "completed"},
        {"name": "held"},
        {"name": "blocked", "depends_on": ["running"]},
        {"name": "running", "command": gate.wait, "priority": 0},
    )
    lab.torc("hold", 1, "held")
    runner = lab.start("run", 1, "-p", 1)
    gate.await_jobs("running")
    name = lab.runner()
    for job in lab.jobs():
        lab.file(job).write_text("{")
    for file in ("runner.json", "journal", "heartbeat"):
        path = lab.root() / "runners" / name / file
        path.write_bytes(b"\xff{")
    lab.torc("release", 1)
    for words in ("status 1", "jobs list 1", "jobs show 1 running", "results list 1", "recover 1 --dry-run"):
        lab.torc(*words.split(), "-f", "json")
    gate.open()
    runner.wait(3)
    # what the runner knows of a job it has started, it has in its head
    states = lab.states()
    assert (states["running"], states["completed"]) == ("completed", "completed")
    assert (states["held"], states["blocked"]) == ("set_aside", "set_aside")
    assert [row["outcome"] for row in lab.job("running")["attempts"]] == ["completed"]


def test_a_dead_runner_with_damage_all_over_is_recovered(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(gate.wait, gate.wait, "true")
    runner = lab.start("run", 1, "-p", 2)
    gate.await_jobs("j1", "j2")
    name = lab.runner()
    runner.kill()
    lab.file("j1").write_bytes(b"")
    directory = lab.root() / "running" / name
    (directory / "core.1234").write_text("not ours")
    (directory / ".999999-000000002.1-c1g0n1m1t0-j2.json.tmp").write_text('{"to')
    (lab.root() / "runners" / name / "journal").write_bytes(b'{"event": "start", "id"')
    gate.open()
    lab.run(1, code=3)
    assert lab.states() == {"j1": "set_aside", "j2": "completed", "j3": "completed"}
    assert len(lab.ls("aside")) == 2
    assert not directory.exists()


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda path: path.write_text("{"), "workflow.json: is no workflow's JSON"),
        (replaced(version=2), "is of version 2; this program knows 1"),
        (replaced(id=7), "is of workflow 7, its directory's name says 1"),
        slow(lambda path: path.unlink(), "workflow.json: is missing"),
        slow(lambda path: path.write_text("[" * 100_000), "workflow.json: is no workflow's JSON"),
        slow(becomes(lambda path: path.symlink_to("spec.json")), "is a symbolic link"),
    ],
    ids=["torn", "from the future", "of another", "missing", "deep", "a link"],
)
def test_a_workflow_that_cannot_be_read_is_refused_and_others_are_served(
    lab: Lab, damage: Callable[[Path], object], why: str
) -> None:
    lab.submit("true")
    lab.submit("true")
    (lab.root() / "a" / "b").mkdir(parents=True)  # for `becomes`
    damage(lab.root() / "workflow.json")
    for words in ("status 1", "run 1", "cancel 1"):
        assert why in lab.torc(*words.split(), code=2).sentence()
    done = lab.run(code=3)
    assert "workflow 1 is not served" in done.stderr
    assert lab.states(2) == {"j1": "completed"}
    rows = lab.torc("workflows", "list", "-f", "json").json
    assert why in rows[0]["error"]
    assert rows[1]["finished"] is True


@pytest.mark.parametrize("damage", ["torn", slow("missing")])
def test_without_its_record_a_workflow_is_refused_in_one_sentence(lab: Lab, damage: str) -> None:
    lab.submit("true", {"name": "next", "depends_on": ["j1"]})
    record = lab.root() / "jobs.jsonl"
    if damage == "torn":
        record.write_bytes(record.read_bytes()[:-30])
    else:
        record.unlink()
    for words in ("run 1", "jobs list 1", "cancel 1", "preview 1"):
        assert "jobs.jsonl" in lab.torc(*words.split(), code=2).sentence()
    lab.torc("status", 1)


def test_foreign_things_in_the_spool_are_no_workflows(lab: Lab) -> None:
    lab.submit("true")
    for name in (b"7-file", b"x", b"\xff-y", b"0-zero", b"00001-zeros", b"-1-minus"):
        (lab.spool / os.fsdecode(name)).write_text("not ours")
    (lab.spool / "9-empty").mkdir()
    (lab.spool / ".ids" / "not a number").mkdir()
    (lab.spool / ".staging" / "foreign").mkdir()
    lab.run(code=3)
    assert lab.states() == {"j1": "completed"}
    lab.torc("workflows", "list")
    lab.spec("true")
    # ids of whatever looks like a workflow are not given away
    assert lab.torc("submit", "spec.json").stdout == "10\n"
    assert (lab.spool / ".staging" / "foreign").exists()


# --- a filesystem that refuses


class Elsewhere:
    """A mount namespace of one's own with a filesystem mounted at a path: it goes when its holder ends."""

    def __init__(self, point: Path, mount: list[str]) -> None:
        point.mkdir(exist_ok=True)
        script = 'mount "$@" && echo ok && exec sleep 10000'
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *mount, str(point)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        self.works = self._holder.stdout.readline() == "ok\n"
        self.root = Path(f"/proc/{self._holder.pid}/root")

    def enter(self) -> None:
        """For `preexec_fn`: be there."""
        here = os.getcwd()
        descriptor = os.open(f"/proc/{self._holder.pid}/ns/mnt", os.O_RDONLY)
        if ctypes.CDLL(None).setns(descriptor, 0) != 0:
            os._exit(99)
        os.close(descriptor)
        os.chdir(here)

    def do(self, *command: str) -> None:
        subprocess.run(command, preexec_fn=self.enter, check=True, timeout=TIMEOUT_S)

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()
        for stream in (self._holder.stdout, self._holder.stderr):
            assert stream is not None
            stream.close()


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Elsewhere]]:
    """Makes an `Elsewhere`; skips where mounting is not allowed."""
    made: list[Elsewhere] = []

    def make(*mount: str) -> Elsewhere:
        if shutil.which("unshare") is None or not ROOT:
            pytest.skip("needs root and unshare(1), to mount a small or read-only filesystem")
        made.append(Elsewhere(tmp_path / "spool", list(mount)))
        if not made[0].works:
            pytest.skip("may not mount here")
        return made[0]

    yield make
    for each in made:
        each.close()


@pytest.mark.slow
def test_a_read_only_spool_can_be_looked_at_and_nothing_more(lab: Lab, mounted: Callable[..., Elsewhere]) -> None:
    gate = lab.gate()
    lab.submit("exit 1", gate.wait, "true")
    runner = lab.start("run", 1, "-p", 1)
    gate.await_jobs("j2")
    assert lab.states() == {"j1": "failed", "j2": "running", "j3": "ready"}
    runner.kill()  # a dead runner, so that there is something to recover
    lab.spec("true")
    there = mounted("--bind", "-o", "ro", str(lab.spool))
    if os.statvfs(f"{there.root}{lab.spool}").f_flag & os.ST_RDONLY == 0:
        there.do("mount", "-o", "remount,bind,ro", str(lab.spool))
    for words in (
        "status 1",
        "jobs list 1",
        "results list 1",
        "logs 1 j1",
        "preview 1",
        "recover 1 --dry-run",
    ):
        lab.torc(*words.split(), preexec_fn=there.enter)
    lab.torc("wait", 1, "--timeout", 0, code=4, preexec_fn=there.enter)
    for words in (
        "submit spec.json",
        "run 1",
        "run",
        "cancel 1",
        "hold 1",
        "recover 1",
        "delete 1",
    ):
        done = lab.torc(*words.split(), code=2, preexec_fn=there.enter)
        assert "Read-only file system" in done.stderr, words
        assert len(done.stderr.splitlines()) <= 2
    gate.open()


@pytest.mark.parametrize("options", ["size=1m", "size=64m,nr_inodes=300"])
def test_a_submit_to_a_full_disk_leaves_nothing(lab: Lab, mounted: Callable[..., Elsewhere], options: str) -> None:
    there = mounted("-t", "tmpfs", "-o", f"mode=755,{options}", "none")
    lab.spec(*["echo " + "x" * 3000] * 500)
    sentence = lab.torc("submit", "spec.json", code=2, preexec_fn=there.enter).sentence()
    assert "No space left on device" in sentence
    spool = Path(f"{there.root}{lab.spool}")
    assert sorted(os.listdir(spool)) == [".ids", ".staging", ".trash"]
    assert not any(os.listdir(spool / name) for name in (".staging", ".trash"))
    lab.spec("true")
    assert lab.torc("submit", "spec.json", preexec_fn=there.enter).stdout in ("1\n", "2\n")
    lab.run("1", code=None, preexec_fn=there.enter)


@pytest.mark.slow
@pytest.mark.parametrize("full_of", ["bytes", "files"])
def test_results_wait_for_a_full_disk_and_no_job_is_lost(
    lab: Lab, mounted: Callable[..., Elsewhere], full_of: str
) -> None:
    gate = lab.gate()
    there = mounted("-t", "tmpfs", "-o", "mode=755,size=2m,nr_inodes=300", "none")
    outputs = lab.base / "outputs"  # not on the full disk
    lab.spec(*[gate.wait] * 2, *["true"] * 4, {"name": "last", "depends_on": ["j3", "j4"]})
    lab.torc("submit", "spec.json", "--output-dir", outputs, preexec_fn=there.enter)
    runner = lab.start("run", 1, "-p", 2, preexec_fn=there.enter)
    gate.await_jobs("j1", "j2")
    spool = Path(f"{there.root}{lab.spool}")
    fillers = _fill(spool, full_of)
    gate.open()
    wait_until(lambda: "results cannot be recorded yet" in runner.stderr, "the runner says that it cannot record")
    assert "No space left on device" in runner.stderr
    assert runner.alive
    # what only looks still works
    assert json.loads(lab.torc("status", 1, "-f", "json", preexec_fn=there.enter).stdout)["jobs"]["running"] == 2
    for filler in fillers:
        filler.unlink()
    runner.wait()
    (root,) = spool.glob("1-*")
    files = list((root / "done" / "completed").iterdir())
    assert len(files) == 7
    for file in files:
        assert [attempt["outcome"] for attempt in json.loads(file.read_text())["attempts"]] == ["completed"]
    assert runner.stderr.count("cannot be recorded") <= 2  # it does not say so over and over


def test_a_runner_that_must_end_on_a_full_disk_leaves_its_jobs_to_the_next(
    lab: Lab, mounted: Callable[..., Elsewhere]
) -> None:
    gate = lab.gate()
    there = mounted("-t", "tmpfs", "-o", "mode=755,size=2m", "none")
    lab.spec(gate.wait, "true")
    lab.torc("submit", "spec.json", "--output-dir", lab.base / "outputs", preexec_fn=there.enter)
    runner = lab.start("run", 1, "-p", 1, "--grace", 0, preexec_fn=there.enter)
    gate.await_jobs("j1")
    spool = Path(f"{there.root}{lab.spool}")
    fillers = _fill(spool, "bytes")
    runner.signal(signal.SIGTERM)
    wait_until(lambda: "results cannot be recorded yet" in runner.stderr, "the runner says that it cannot record")
    runner.signal(signal.SIGTERM)  # at once
    assert runner.wait(4)
    # a runner that cannot even say who it is
    assert "No space left on device" in lab.run(1, code=2, preexec_fn=there.enter).stderr
    for filler in fillers:
        filler.unlink()
    gate.open()
    lab.run(1, preexec_fn=there.enter)
    (root,) = spool.glob("1-*")
    (file,) = (root / "done" / "completed").glob("*-j1.json")
    attempts = json.loads(file.read_text())["attempts"]
    assert [(each["attempt"], each.get("outcome")) for each in attempts] == [(1, None), (2, "completed")]


def _fill(spool: Path, full_of: str) -> list[Path]:
    """Use up what the filesystem has."""
    fillers = [spool / ".filler"]
    if full_of == "bytes":
        with contextlib.suppress(OSError), open(fillers[0], "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
    with contextlib.suppress(OSError):
        while full_of == "files":
            fillers.append(spool / f".filler-{len(fillers)}")
            fillers[-1].touch()
        # no page is left to write to, and no name to make
    if full_of == "files":
        fillers = [filler for filler in fillers if filler.exists()]
    return fillers


@pytest.fixture
def open_base() -> Iterator[Path]:
    """A directory that another user can reach, and owns."""
    base = Path(tempfile.mkdtemp(prefix="torc-spool-test-"))
    base.chmod(0o755)
    if ROOT:
        os.chown(base, NOBODY, NOBODY)
    yield base
    shutil.rmtree(base)


@as_root
def test_a_file_that_may_not_be_read_is_set_aside(lab: Lab, open_base: Path) -> None:
    """As a user who is not root, for whom the modes of files hold."""
    shutil.copy(lab.spec("true", "true"), open_base / "spec.json")
    spool = open_base / "spool"
    me: dict[str, Any] = {"user": NOBODY, "cwd": open_base, "env": {"TORC_SPOOL_DIR": str(spool)}}
    lab.torc("submit", "spec.json", **me)
    (file,) = (spool / "1-flow/ready/any").glob("*-j1.json")
    file.chmod(0)
    done = lab.torc("run", 1, code=3, **me)
    assert f"set aside: {file.name} " in done.stderr
    assert len(list((spool / "1-flow/done/completed").iterdir())) == 1
    # where nothing can be made, or not even looked at: one sentence
    (spool / "1-flow/runners").chmod(0o555)
    assert "Permission denied" in lab.torc("run", 1, code=2, **me).sentence()
    spool.chmod(0o000)
    assert "Permission denied" in lab.torc("status", 1, code=2, **me).sentence()
    spool.chmod(0o755)
