"""(c) Submit, against a bare loop that creates as many files with the same bytes in them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import harness
from harness import Aim, Context, Figure, Report

from torc_spool import fsops
from torc_spool import spec as specs
from torc_spool.spool import Spool
from torc_spool.submission import Verbatim

TITLE = "submit, from the text to the published workflow, without interpreter start and sync"
AIM = Aim(2.0)
_SYNCS = ("sync_filesystem", "sync_directory")


def measure(context: Context) -> Report:
    directory = context.directory_for("c")
    ratios: list[Figure] = []
    shown: list[Figure] = []
    creates: list[float] = []
    for jobs in context.sizes((1_000, 10_000, 100_000), (1_000, 10_000)):
        context.say(f"(c) submit of {jobs:,} jobs")
        where = f"{directory}/{jobs}"
        os.mkdir(where)
        found, more = _case(context, where, jobs, creates)
        ratios += found
        shown += more
    note = "a round is a submit and then a loop of open(O_CREAT|O_EXCL), write, close in an empty directory"
    return Report("c", TITLE, ratios + shown, [note, harness.create_note(creates)])


def _case(context: Context, where: str, jobs: int, creates: list[float]) -> tuple[list[Figure], list[Figure]]:
    text = "".join(f"echo {job}\n" for job in range(jobs)).encode()
    spool = Spool(f"{where}/spool")
    files: list[tuple[str, bytes]] = []
    syncs: list[float] = []
    bare_syncs: list[float] = []
    publishes: list[float] = []
    rounds = iter(range(10**9))

    def submit() -> float:
        creates.append(harness.create_cost(where))
        made = fsops.calls["create"]
        with timed_syncs() as spent:
            parsed: list[Any] = []
            reading = harness.seconds(lambda: parsed.append(_parse(text)))
            publishing = harness.seconds(lambda: spool.submit(parsed[0], Verbatim(text, "commands.txt"), cwd=where))
        syncs.append(sum(spent))
        publishes.append(publishing - sum(spent))
        if not files:
            files.extend(_as_submitted(harness.workflow_directory(spool.path, 1), fsops.calls["create"] - made))
        return reading + publishing - sum(spent)

    def loop() -> float:
        bare = f"{where}/bare-{next(rounds)}"
        os.mkdir(bare)
        took = harness.seconds(lambda: _create_all(bare, files))
        bare_syncs.append(harness.seconds(lambda: fsops.sync_filesystem(bare)))
        return took

    samples = harness.interleaved(context.runs, {"submit": submit, "loop": loop})
    case = f"{jobs:,} jobs: "
    ratios = [
        harness.ratio(f"{case}submit / bare loop", samples["submit"], samples["loop"], AIM),
        harness.ratio(f"{case}of it, writing the workflow / bare loop", publishes, samples["loop"]),
    ]
    shown = [
        harness.median(f"{case}submit, a job", samples["submit"], "us", scale=1e6 / jobs),
        harness.median(f"{case}bare loop of {len(files):,} files, a file", samples["loop"], "us", scale=1e6 / jobs),
        harness.median(f"{case}sync after submit", syncs, "ms", scale=1e3),
        harness.median(f"{case}sync after the bare loop", bare_syncs, "ms", scale=1e3),
        Figure(f"{case}reading the same as a YAML spec, a job", harness.seconds(_yaml(jobs)) / jobs * 1e6, "us"),
    ]
    return ratios, shown


def _parse(text: bytes) -> Any:
    return specs.from_commands(text.decode().splitlines(), name="submits", source="commands")


def _yaml(jobs: int) -> Callable[[], Any]:
    head = "name: submits\njobs:\n"
    text = head + "".join(f"- name: job_{job:06d}\n  command: echo {job}\n" for job in range(jobs))
    return lambda: specs.parse(text, "spec.yaml")


def _as_submitted(workflow: str, created: int) -> list[tuple[str, bytes]]:
    """Name and bytes of every file that a submit has made; those that are not jobs are empty here."""
    ready = f"{workflow}/ready/any"
    files = []
    for name in sorted(os.listdir(ready)):
        with open(f"{ready}/{name}", "rb") as file:
            files.append((name, file.read()))
    return files + [(f"other-{number}", b"") for number in range(created - len(files))]


def _create_all(directory: str, files: list[tuple[str, bytes]]) -> None:
    for name, data in files:
        descriptor = os.open(f"{directory}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.write(descriptor, data)
        os.close(descriptor)


@contextmanager
def timed_syncs() -> Iterator[list[float]]:
    """The seconds that the library's syncs take meanwhile."""
    spent: list[float] = []
    originals = {name: getattr(fsops, name) for name in _SYNCS}

    def timed(original: Callable[[str], None]) -> Callable[[str], None]:
        return lambda path: spent.append(harness.seconds(lambda: original(path)))

    for name, original in originals.items():
        setattr(fsops, name, timed(original))
    try:
        yield spent
    finally:
        for name, original in originals.items():
            setattr(fsops, name, original)
