"""The soak: that it finds what is wrong when something is, and that nothing is when it runs for a while."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SOAKING = Path(__file__).parent.parent / "scripts" / "soaking"


def soak(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-B", SOAKING / "main.py", "--dir", directory, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.slow
def test_nothing_is_lost_or_done_twice_in_a_bad_world(tmp_path: Path) -> None:
    done = soak(tmp_path / "soak", "--runners", "3", "--jobs", "60", "--minutes", "0.7", "--seed", "4711")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "seed 4711" in done.stdout
    counts = {what: int(number) for number, what in re.findall(r"(\d+) (killed|frozen|declared|jobs,)", done.stdout)}
    assert counts["jobs,"] >= 60
    assert counts["killed"] + counts["frozen"] + counts["declared"] > 0
    assert "harm found: 0" in done.stdout
    assert not [*(tmp_path / "soak" / "spool").glob("[0-9]*")], "what is judged makes room"


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a soak without faults has left: one workflow."""
    directory = tmp_path_factory.mktemp("soak") / "calm"
    done = soak(
        directory, "--runners", "1", "--jobs", "12", "--workflows", "1", "--minutes", "0.005", "--seed", "4", "--keep"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The soak's modules are scripts, and no package."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(SOAKING))
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(SOAKING)):
            del sys.modules[name]


def _file(root: Path, kind: str) -> Path:
    return sorted((root / "done").glob(f"*/*-{kind}_*.json"))[0]


def _change(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))


def _number(root: Path, kind: str) -> int:
    return int(_file(root, kind).name.split("-")[1].split(".")[0])


def _log(root: Path, logs: Path, kind: str) -> Path:
    return logs / f"{root.name.split('-')[0]}-{_number(root, kind)}"


def _twice(path: Path) -> None:
    path.write_text(path.read_text() * 2)


def _lose(path: Path) -> None:
    path.unlink()


DAMAGES: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "a job is lost": (lambda root, _: _lose(_file(root, "works")), "lies nowhere"),
    "a job has two files": (
        lambda root, _: (
            (root / "ready/any" / _file(root, "works").name).write_bytes(_file(root, "works").read_bytes()) and None
        ),
        "must have one file",
    ),
    "an attempt ran twice": (lambda root, logs: _twice(_log(root, logs, "works")), "ran 2 times"),
    "an attempt never ran": (lambda root, logs: _lose(_log(root, logs, "works")), "never ran"),
    "an attempt is recorded twice": (
        lambda root, _: _change(_file(root, "works"), lambda job: job["attempts"].append(job["attempts"][-1])),
        "recorded twice",
    ),
    "a death without a reason": (
        lambda root, _: _change(_file(root, "works"), lambda job: job["attempts"][0].pop("outcome")),
        "no death as its reason",
    ),
    "a death of one who lived": (
        lambda root, _: _change(
            _file(root, "never"),
            lambda job: job["attempts"][0].update(outcome=None, return_code=None, reason="its runner died: how"),
        ),
        "to which nothing was done",
    ),
    "a retry too few": (
        lambda root, _: _change(_file(root, "never"), lambda job: job["attempts"].pop(0)),
        "must have failed 3 to 3 times",
    ),
    "a wrong outcome": (lambda root, _: _lose_to(root, _file(root, "works"), "failed"), "must end completed"),
    "a journal with two ends": (lambda root, _: _twice(_journal_with_ends(root)), "2 lines of the end"),
    "an output of another": (
        lambda root, _: [path.write_text("attempt 9\n") for path in root.glob("output/*.out")] and None,
        "must hold the output",
    ),
    "an action twice": (
        lambda root, logs: _twice(logs / f"{root.name.split('-')[0]}-action-1"),
        "was performed 2 times",
    ),
    "an action undone": (
        lambda root, _: (
            _only(root, "actions/done/001*").rename(root / "actions/waiting/001.1-on_workflow_start.json") and None
        ),
        "action 1 is waiting",
    ),
    "something set aside": (lambda root, _: (root / "aside/what").write_text("?") and None, "was set aside"),
}


def _lose_to(root: Path, path: Path, outcome: str) -> None:
    path.rename(root / "done" / outcome / path.name)


def _journal_with_ends(root: Path) -> Path:
    """Of a runner that had jobs: another one may have come when there were none left."""
    return next(path for path in sorted(root.glob("runners/*/journal")) if '"event":"end"' in path.read_text())


def _only(root: Path, pattern: str) -> Path:
    return sorted(root.glob(pattern))[0]


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_each_kind_of_harm_is_found(calm: Path, tmp_path: Path, modules: None, damage: str) -> None:
    import evidence
    import verdict
    import workload

    copy = tmp_path / "copy"
    shutil.copytree(calm, copy)
    (root,) = (path for path in (copy / "spool").iterdir() if path.name[0].isdigit())
    made = workload.make(12, int(root.name.split("_")[-1]), "job.sh", "logs")
    nobody = verdict.Deaths((), disk_was_full=False)
    assert list(verdict.problems(made.expected, evidence.gather(root, copy / "logs"), nobody)) == []
    change, said = DAMAGES[damage]
    change(root, copy / "logs")
    found = list(verdict.problems(made.expected, evidence.gather(root, copy / "logs"), nobody))
    assert any(said in line for line in found), found
