"""What is left of a workflow, read with nothing but `listdir` and `json`: the program is not asked about itself."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

_JOB = re.compile(r"\d{6}(?:\.[0-9a-z]+)?-(\d{9})\.(\d+)-c\d+g\d+n\d+m\d+t\d+-.*?(?:~(\d+)\.(\d+))?\.json")
_ACTION = re.compile(r"(\d+)\.\d+-\w+?(?:~(?P<runner>[^~]+?)(?:~(?P<code>\d+))?)?\.json")
_STATES = ("blocked", "ready", "pending", "running", "done", "held")


class Found(NamedTuple):
    """A job's file."""

    where: str  # below the workflow's directory
    id: int
    attempt: int  # by the name
    content: dict[str, Any]


class Run(NamedTuple):
    """One execution, as the job's own log has it."""

    attempt: int
    runner: str
    began: float
    code: int | None  # None: it did not come to its end
    ended: float | None


class Evidence(NamedTuple):
    """All that one workflow has left."""

    files: list[Found]
    foreign: list[str]  # what is in a state's directory and is no job's file, or was set aside
    runs: dict[int, list[Run]]  # by job
    outputs: dict[str, list[str]]  # lines by name, of the files that are there
    starts: Counter[tuple[int, int]]  # by job and attempt, in all journals
    ends: Counter[tuple[int, int]]
    actions: dict[int, tuple[str, str | None, int | None]]  # state, runner, code by number
    performed: dict[int, list[str]]  # runners, as the actions' own logs have it
    recovered: int  # runners whose work was taken back


def gather(root: Path, logs: Path) -> Evidence:
    """Read it all. The workflow's id is the beginning of its directory's name."""
    prefix = root.name.split("-")[0]
    files, foreign = _files(root)
    starts, ends = _journals(root)
    return Evidence(
        files,
        foreign,
        {int(log.name.split("-")[1]): _runs(log) for log in logs.glob(f"{prefix}-[0-9]*")},
        {path.name: path.read_text(errors="replace").splitlines() for path in (root / "output").iterdir()},
        starts,
        ends,
        _actions(root),
        {
            int(log.name.rsplit("-", 1)[1]): [line.split()[1] for line in log.read_text().splitlines()]
            for log in logs.glob(f"{prefix}-action-*")
        },
        sum(json.loads(path.read_bytes())["state"] == "dead" for path in (root / "runners").rglob("end.json")),
    )


def _files(root: Path) -> tuple[list[Found], list[str]]:
    found, foreign = [], [f"aside/{path.name}" for path in (root / "aside").iterdir()]
    for state in _STATES:
        for path in sorted((root / state).rglob("*")):
            where = str(path.relative_to(root))
            if path.is_dir() or path.name.startswith("."):
                continue
            match = _JOB.fullmatch(path.name)
            try:
                content = json.loads(path.read_bytes())
            except ValueError:
                content = None
            if match is None or not isinstance(content, dict):
                foreign.append(where)
                continue
            found.append(Found(where, int(match[1]), int(match[2]), content))
    return found, foreign


def _runs(log: Path) -> list[Run]:
    lines = [line.split() for line in log.read_text().splitlines()]
    ends = [words for words in lines if words[0] == "end"]
    runs = []
    for words in (words for words in lines if words[0] == "start"):
        end = next((each for each in ends if each[1] == words[1]), None)
        code, ended = (int(end[2]), float(end[3])) if end else (None, None)
        runs.append(Run(int(words[1]), words[2], float(words[3]), code, ended))
    return runs


def _journals(root: Path) -> tuple[Counter[tuple[int, int]], Counter[tuple[int, int]]]:
    counts: dict[str, Counter[tuple[int, int]]] = {"start": Counter(), "end": Counter()}
    for journal in (root / "runners").rglob("journal"):
        for line in journal.read_bytes().splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue  # torn by a full disk
            kind = "end" if event["event"] == "retry" else event["event"]
            if kind in counts:
                counts[kind][event["id"], event["attempt"]] += 1
    return counts["start"], counts["end"]


def _actions(root: Path) -> dict[int, tuple[str, str | None, int | None]]:
    found = {}
    for state in ("waiting", "running", "done"):
        for path in (root / "actions" / state).iterdir():
            match = _ACTION.fullmatch(path.name)
            if match:
                code = match["code"]
                found[int(match[1])] = (state, match["runner"], None if code is None else int(code))
    return found
