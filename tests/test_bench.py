"""The benchmarks: what they compute, and that each part says something that holds together. No timing is judged."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "scripts" / "benchmarks"


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of the benchmarks by its name; they are scripts, and no package."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name: str) -> ModuleType:
        return __import__(name)

    yield load
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCHMARKS)):
            del sys.modules[name]


def run(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-B", BENCHMARKS / "main.py", "--dir", tmp_path, *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def measured(tmp_path: Path, name: str, *words: str) -> dict[str, Any]:
    """One part at a tiny size."""
    done = run(tmp_path, name, "--runs", "1", "--jobs", "8", "--idle-seconds", "1", "--format", "json", *words)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == [], "the working directory was left behind"
    (report,) = json.loads(done.stdout)["parts"]
    assert report["part"] == name
    assert report["figures"], "no figures"
    for figure in report["figures"]:
        assert (figure["aim"] is None) == (figure["met"] is None)
        assert figure["low"] is None or figure["low"] <= figure["value"] <= figure["high"]
    return report


def values(report: dict[str, Any]) -> dict[str, float]:
    return {figure["name"]: figure["value"] for figure in report["figures"]}


# --- what is computed


def test_a_ratio_is_one_of_medians_with_the_spread_of_the_rounds(part: Any) -> None:
    figure = part("harness").ratio("a / b", [1.0, 4.0, 2.0], [1.0, 2.0, 1.0])
    assert (figure.value, figure.low, figure.high) == (2.0, 1.0, 2.0)


def test_runs_are_interleaved(part: Any) -> None:
    seen: list[str] = []
    measures = {name: lambda name=name: seen.append(name) or 1.0 for name in "abc"}
    assert part("harness").interleaved(2, measures) == {name: [1.0, 1.0] for name in "abc"}
    assert seen == list("abcabc")


def test_an_aim_is_met_or_missed_and_shown_as_such(part: Any) -> None:
    harness = part("harness")
    figures = [
        harness.Figure("at the limit", 2.0, "x", harness.Aim(2.0)),
        harness.Figure("not below", 2.0, "x", harness.Aim(2.0, below=True)),
        harness.Figure("no aim", 2.0),
    ]
    lines = harness.show(harness.Report("z", "title", figures, ["a note"])).splitlines()
    assert re.search(r"at the limit +2.00 x +aim at most 2 +met$", lines[1])
    assert re.search(r"not below +2.00 x +aim below 2 +missed$", lines[2])
    assert lines[3].split() == ["no", "aim", "2.00"]
    assert lines[4].strip() == "a note"


def test_traced_calls_are_those_below_the_directory(part: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        '1 1.5 openat(AT_FDCWD</cwd>, "/s/a", O_WRONLY|O_CREAT|O_EXCL, 0644) = 3</s/a>\n'
        '1 1.6 openat(AT_FDCWD</cwd>, "/else", O_RDONLY) = 3</else>\n'
        '2 1.7 rename("/s/a", "/s/b" <unfinished ...>\n'
        "2 1.8 <... rename resumed>) = 0\n"
        '1 1.9 unlinkat(5</s/dir>, "x", 0) = 0\n'
        '1 2.0 newfstatat(3</s/a>, "", {st_mode=S_IFREG|0644, ...}, AT_EMPTY_PATH) = 0\n'
        '1 2.1 execve("/bin/torc-spool", ["torc-spool", "--spool", "/s"], 0x1 /* 9 vars */) = 0\n'
        '1 2.2 stat("/spool", {}) = -1 ENOENT\n'
    )
    tracing = part("tracing")
    found = list(tracing.calls(str(log), "/s"))
    assert [(call.time, call.name) for call in found] == [(1.5, "openat"), (1.7, "rename"), (1.9, "unlinkat")]
    assert found[2].paths == ("/s/dir/x",)
    assert tracing.kinds(found) == {"open(O_CREAT)": 1, "rename": 1, "unlinkat": 1}


def test_the_simulation_packs_in_order_and_skips_what_does_not_fit(part: Any) -> None:
    packing = part("packing")
    tasks = [packing.Task(cpus, 1.0) for cpus in (8, 8, 8, 4, 4)]
    assert packing.simulate(tasks, [1.0] * 5) == 2.0
    # the third does not fit beside the first two, the fourth does
    tasks = [packing.Task(cpus, 1.0) for cpus in (8, 4, 8, 4)]
    assert packing.simulate(tasks, [2.0, 1.0, 1.0, 1.0]) == 2.0
    assert packing.lower_bound(tasks, [2.0, 1.0, 1.0, 1.0]) == 2.0
    assert packing.mix(5) == packing.mix(5)


# --- each part


@pytest.mark.slow
def test_throughput(tmp_path: Path) -> None:
    found = values(measured(tmp_path, "a"))
    for parallel in (2, 8):
        case = f"8 jobs, {parallel} at a time: "
        ours, theirs = found[f"{case}torc-spool run"], found[f"{case}xargs"]
        assert found[f"{case}torc-spool run / xargs"] == pytest.approx(ours / theirs)
        assert found[f"{case}with submit / xargs"] > found[f"{case}torc-spool run / xargs"]


@pytest.mark.slow
def test_claims(tmp_path: Path) -> None:
    found = values(measured(tmp_path, "b", "--jobs", "64,128"))
    for mode in ("queue depth", "by resources"):
        small, large = (found[f"a claim, {mode}, {jobs} ready"] for jobs in (64, 128))
        assert found[f"{mode}: 128 ready / 64 ready"] == pytest.approx(large / small)


@pytest.mark.slow
def test_submits(tmp_path: Path) -> None:
    found = values(measured(tmp_path, "c"))
    whole, part = found["8 jobs: submit / bare loop"], found["8 jobs: of it, writing the workflow / bare loop"]
    assert 0 < part < whole


@pytest.mark.slow
def test_counted_calls_are_the_sum_of_their_kinds(tmp_path: Path) -> None:
    report = measured(tmp_path, "d")
    found = values(report)
    cases = {name.split(": ")[0] for name in found}
    assert "independent, counted by the library" in cases
    for case in cases:
        listed = [note for note in report["notes"] if note.startswith(f"{case}, ")]
        assert len(listed) == 2, "one note for submit, one for run"
        totals = []
        for note in listed:
            total, kinds = re.fullmatch(r".*, 8 jobs: ([0-9,]+) = (.*)", note).groups()  # type: ignore[union-attr]
            totals.append(int(total.replace(",", "")))
            assert sum(int(kind.rsplit(" ", 1)[1].replace(",", "")) for kind in kinds.split(", ")) == totals[-1]
        assert found[f"{case}: calls, all / 8 jobs"] == pytest.approx(sum(totals) / 8)
        assert found[f"{case}: of them creates"] <= found[f"{case}: calls, a further job"]
        assert found[f"{case}: output files and heartbeats a job, aside"] >= 2


@pytest.mark.slow
def test_idle(tmp_path: Path) -> None:
    found = values(measured(tmp_path, "e"))
    assert found["processor time, of one core"] >= 0
    assert found["calls on the spool a minute, counted by the library"] >= 0


@pytest.mark.slow
def test_latency(tmp_path: Path) -> None:
    found = values(measured(tmp_path, "f"))
    published = found["from the publishing rename, in process"]
    assert 0 < published < found["from the call of the library's submit, in process"]


@pytest.mark.slow
def test_packing(tmp_path: Path) -> None:
    found = values(measured(tmp_path, "g"))
    makespan = found["makespan, first start to last end"]
    bound = found["over the lower bound, sum of cpus x time / 16"]
    assert bound >= 1
    assert found["the simulation over the lower bound"] >= 1
    assert makespan > 0


@pytest.mark.slow
def test_patterns(tmp_path: Path) -> None:
    found = values(measured(tmp_path, "h"))
    for case in ("three stages with barriers, 26 jobs: ", "product with one before, 801 jobs: ", "fan-in, 9 jobs: "):
        for what in ("parse", "publish", "peak memory"):
            assert found[f"{case}{what} / without dependencies"] >= 0
        for what, jobs in (("parse", int(case.split()[-2])), ("publish", int(case.split()[-2]))):
            assert found[f"{case}{what}, a job"] == pytest.approx(found[f"{case}{what}"] / jobs * 1e6)


def test_bad_words_are_refused(tmp_path: Path) -> None:
    for words in (["z"], ["--runs", "0"], ["--jobs", "1"]):
        done = run(tmp_path, *words)
        assert done.returncode == 2
        assert "error:" in done.stderr
        assert list(tmp_path.iterdir()) == []
