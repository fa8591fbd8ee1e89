"""A spool that has something of every kind in it, and ways to damage it as a person, a program or a disk may."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
from pathlib import Path
from typing import Any

import hostile

from torc_spool import naming, processes

DEAD = naming.new_runner_name(processes.host_name(), 4_000_000)  # a pid that no process has
SILENT = naming.new_runner_name("elsewhere", 5)

SPEC: dict[str, Any] = {
    "name": "flow",
    "jobs": [
        {"name": "a", "command": "true"},
        {"name": "b", "command": "exit 3", "depends_on": ["a"]},
        {"name": "c", "command": "true", "depends_on": ["b"]},
        {"name": "d", "command": "true", "scheduler": "gpu"},
        {"name": "e", "command": "true", "failure_handler": "h", "env": {"X": "y"}},
        {"name": "f", "command": "true", "input_user_data": ["u"]},
        {"name": "g", "command": "true"},
    ],
    "slurm_schedulers": [{"name": "gpu", "account": "x"}],
    "user_data": [{"name": "u", "data": {"x": 1}}],
    "failure_handlers": [{"name": "h", "rules": [{"exit_codes": [3], "max_retries": 1}]}],
    "actions": [
        {"trigger_type": "on_workflow_start", "action_type": "run_commands", "commands": ["true"]},
        {"trigger_type": "on_jobs_ready", "action_type": "run_commands", "commands": ["true"], "jobs": ["c"]},
        {"trigger_type": "on_worker_start", "action_type": "run_commands", "commands": ["true"]},
    ],
}

SHOWS = (
    "status 1",
    "jobs list 1",
    "jobs show 1 d",
    "jobs show 1 2",
    "results list 1",
    "workflows list",
    "preview 1",
    "execution-plan 1",
    "actions list 1",
    "user-data list 1",
    "user-data get 1 u",
    "fsck 1",
    "slurm status 1",
    "recover 1 --dry-run",
    "reinitialize 1 --dry-run",
    "reset-status 1 --dry-run",
    "wait 1 --timeout 0",
)
CHANGES = (
    "run",
    "recover 1",
    f"recover 1 --dead {SILENT}",
    f"stop 1 {DEAD}",
    "retry 1",
    "retry 1 d",
    "cancel 1",
    "hold 1",
    "release 1",
    "fsck 1 --repair",
    "reset-status 1",
    "reinitialize 1",
    "reinitialize 1 spec.json",
    "set-priority 1 a c 5",
    "actions repeat 1 1",
    "user-data update 1 u --data 2",
    "submit spec.json",
    "delete 1",
    "slurm schedule-nodes 1 --dry-run",
)


def make(work: Path) -> None:
    """`spec.json` and `spool` in this directory, where nobody is at work any more."""
    (work / "spec.json").write_text(json.dumps(SPEC))
    for words in ("submit spec.json", "run 1", "retry 1 b", "retry 1 g", "hold 1 g"):
        hostile.call(words.split(), work)
    root = work / "spool" / "1-flow"
    (runner,) = [name for name in os.listdir(root / "runners") if (root / "runners" / name / "end.json").exists()][:1]
    record = json.loads((root / "runners" / runner / "runner.json").read_text())
    _runner(root, {**record, "name": DEAD, "pid": 4_000_000})
    _runner(root, {**record, "name": SILENT, "host": "elsewhere", "slurm_job_id": "77", "slurm_node": "n1"})
    (root / "runners" / DEAD / "journal").write_text(
        '{"event":"start","id":4,"attempt":1,"time":1.5,"pid":3,"stdout":"/x","stderr":"/y"}\n'
    )
    (held,) = os.listdir(root / "ready" / "gpu")
    (root / "ready" / "gpu" / held).rename(root / "running" / DEAD / held)
    (root / "slurm").mkdir()
    record = {"job_id": "77", "scheduler": "gpu", "key": "abc", "submitted": 1.0, "asked": {"nodes": "1"}}
    (root / "slurm" / "77.json").write_text(json.dumps(record))
    (root / "requests" / f"stop-{SILENT}").touch()
    (work / "spool" / ".doctor.json").write_text(json.dumps({"version": 1, "settings": {"poll_s": 10}}))


def _runner(root: Path, record: dict[str, Any]) -> None:
    directory = root / "runners" / str(record["name"])
    directory.mkdir()
    (directory / "runner.json").write_text(json.dumps(record))
    (directory / "heartbeat").touch()
    (directory / "journal").touch()
    for status in ("pending", "running"):
        (root / status / str(record["name"])).mkdir()


class Vandal:
    """Damages a spool as a random number generator says."""

    def __init__(self, spool: Path, outside: Path, rng: random.Random) -> None:
        self._outside, self._rng = outside, rng
        walked = list(os.walk(spool))
        self._directories = [directory for directory, _, _ in walked]
        self._files = [os.path.join(directory, name) for directory, _, names in walked for name in names]
        self._names = sorted(os.path.basename(path) for path in (*self._directories, *self._files))

    def strike(self) -> str:
        """Do something, and say what."""
        if self._rng.random() < 0.65:
            path = self._rng.choice(self._files)
            data = self._content(path)
            Path(path).write_bytes(data)
            return f"{path}: {data[:300]!r}"
        path = f"{self._rng.choice(self._directories)}/{self._name()}"
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)
        how = self._rng.choice(("file", "directory", "link", "link outside", "pipe", "copy"))
        match how:
            case "file":
                Path(path).touch()
            case "directory":
                os.mkdir(path)
            case "link":
                os.symlink("nowhere", path)
            case "link outside":
                os.symlink(self._outside, path)
            case "pipe":
                os.mkfifo(path)
            case "copy":
                source = Path(self._rng.choice(self._files))
                Path(path).write_bytes(source.read_bytes() if source.is_file() else b"")
        return f"{path}: {how}"

    def _content(self, path: str) -> bytes:
        data = Path(path).read_bytes()
        rng = self._rng
        if path.endswith((".json", ".jsonl", "journal")) and data and rng.random() < 0.75:
            lines = data.splitlines()
            at = rng.randrange(len(lines))
            how = rng.random()
            if len(lines) > 1 and how < 0.1:
                del lines[at]
            elif len(lines) > 1 and how < 0.2:
                lines.insert(at, lines[at])
            else:
                with contextlib.suppress(ValueError, RecursionError):  # damaged already
                    lines[at] = json.dumps(self._changed(json.loads(lines[at]))).encode()
            return b"\n".join(lines) + b"\n"
        return rng.choice(
            [
                *(b"", data[: rng.randrange(len(data) + 1)], data + data, data + b"\0", b"\xef\xbb\xbf" + data),
                *(b"\0" * 100, b"\xff\xfe", b"null", b"[]", b"{}", b"1" * 5000, b'"\\ud800"', b"1e999"),
                *(b"[" * 100_000, b'{"a":' * 100_000),
            ]
        )

    def _changed(self, document: Any) -> Any:
        """The same with one part left out, added, or of another kind."""
        rng = self._rng
        paths: list[tuple[Any, ...]] = []

        def walk(part: Any, path: tuple[Any, ...]) -> None:
            paths.append(path)
            items = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
            for key, value in items:
                walk(value, (*path, key))

        walk(document, ())
        path = rng.choice(paths)
        if not path:
            return self._value()
        parent = document
        for key in path[:-1]:
            parent = parent[key]
        how = rng.random()
        if how < 0.25:
            del parent[path[-1]]
        elif how < 0.35 and isinstance(parent, dict):
            parent[rng.choice(hostile.SAYABLE)] = self._value()
        else:
            parent[path[-1]] = self._value()
        return document

    def _value(self, depth: int = 0) -> Any:
        rng = self._rng
        how = rng.random()
        if how < 0.35 or depth > 2:
            return rng.choice(hostile.SAYABLE)
        if how < 0.7:
            numbers = [0, -1, 1, 2, 4, 99, 2**31, 2**63, 2**64, 10**30, 1.5, -1.5, 1e300, float("nan"), float("inf")]
            return rng.choice([None, True, False, [], {}, *numbers])
        if how < 0.85:
            return [self._value(depth + 1) for _ in range(rng.randrange(4))]
        return {rng.choice(hostile.SAYABLE): self._value(depth + 1) for _ in range(rng.randrange(4))}

    def _name(self) -> str:
        """A name that is foreign, or made of pieces of valid ones."""
        rng = self._rng
        name, other = rng.choice(self._names), rng.choice(self._names)
        made = rng.choice(
            [
                *(rng.choice(hostile.NAMES), name, f"{name}~{other}", name.replace("000000", "999999", 1)),
                name[: rng.randrange(len(name) + 1)] + other[rng.randrange(len(other) + 1) :],
                re.sub(r"\d", lambda found: rng.choice(["x", "0", "9", found[0], found[0]]), name),
                re.sub(r"(-0000000\d\d)\.\d+", lambda found: f"{found[1]}.{rng.choice([2, 3, 999999999])}", name),
            ]
        )[:250]
        return made if made not in ("", ".", "..") else "x"
