"""Readers of foreign input, fuzzed by atheris. See `scripts/fuzz`."""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable

import atheris
import seeds

with atheris.instrument_imports(include=["torc_spool"]):
    from torc_spool import actor, allocation, contents, doctor, naming, quantities, sbatch, siteprofile, spec, squeue
    from torc_spool.errors import TorcSpoolError


def _text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


def _names(data: bytes) -> None:
    text = _text(data)
    for read in (naming.parse_job, naming.parse_action, naming.parse_request, naming.parse_workflow, naming.owners):
        with contextlib.suppress(TorcSpoolError):
            read(text)
    assert len(os.fsencode(naming.aside_name(text, text))) <= naming.MAX_NAME_BYTES
    assert "/" not in naming.slugify(text) and naming.slugify(text)[0] not in ".-"


def _slurm(data: bytes) -> None:
    text = data.decode(errors="replace")
    squeue.parse_squeue(text)
    squeue.parse_sacct(text)
    allocation.hostnames(text)
    siteprofile.parse_sinfo(text)


def _quantities(data: bytes) -> None:
    text = _text(data)
    for read in (quantities.parse_memory, quantities.parse_duration, sbatch.walltime):
        with contextlib.suppress(TorcSpoolError):
            read(text)
    line = sbatch.directive("comment", text)
    assert "\n" not in line


TARGETS: dict[str, Callable[[bytes], object]] = {
    "spec-yaml": lambda data: spec.parse(data, "fuzz.yaml"),
    "spec-json": lambda data: spec.parse(data, "fuzz.json"),
    "spec-json5": lambda data: spec.parse(data, "fuzz.json5"),
    "profile": lambda data: siteprofile.parse(data, "fuzz.yaml"),
    "names": _names,
    "slurm": _slurm,
    "quantities": _quantities,
    "journal": actor.decode_journal,
    "job": lambda data: _job(data),
    "workflow": lambda data: contents.decode_workflow(data, "workflow.json"),
    "action": lambda data: contents.decode_action(data, "fuzz.json", 1),
    "doctor": lambda data: _doctor(data),
}


def _doctor(data: bytes) -> None:
    """What a doctor has kept, read back: within reason, or nothing."""
    with tempfile.TemporaryDirectory() as directory:
        pathlib.Path(directory, doctor.FILE).write_bytes(data)
        found = doctor.settings(directory, user=os.geteuid())
    assert found is None or (0 < found.poll_s < 3600 and 0 < found.lease_s < 1e6)


def _job(data: bytes) -> None:
    content = contents.decode_job(data, "job.json", 1)
    again = contents.decode_job(contents.with_attempt(content.rebound("x"), {"attempt": 1}), "job.json", 1)
    assert len(again.job.attempts) == len(content.job.attempts) + 1


def _one(name: str) -> Callable[[bytes], None]:
    read = TARGETS[name]

    def test(data: bytes) -> None:
        with contextlib.suppress(TorcSpoolError):
            read(data)

    return test


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, metavar="S", help="for each target (60)")
    parser.add_argument("words", nargs="*", metavar="TARGET", help="one and a file: try it again")
    options = parser.parse_args()
    words = options.words or list(TARGETS)
    if len(words) == 2 and words[1] not in TARGETS:
        with open(words[1], "rb") as file:
            _one(words[0])(file.read())
        return 0
    if unknown := [word for word in words if word not in TARGETS]:
        parser.error(f"there is no target {unknown[0]}")
    # libFuzzer ends the process, so each target has one of its own
    if os.environ.get("TORC_SPOOL_FUZZ") == words[0]:
        limits = [f"-max_total_time={options.seconds}", "-timeout=30", "-verbosity=0"]
        atheris.Setup([sys.argv[0], *limits, os.environ["TORC_SPOOL_CORPUS"]], _one(words[0]))
        atheris.Fuzz()
    found = []
    for word in words:
        with tempfile.TemporaryDirectory() as corpus:
            for number, seed in enumerate(seeds.of(word)):
                pathlib.Path(corpus, str(number)).write_bytes(seed)
            command = [sys.executable, "-B", __file__, "--seconds", str(options.seconds), word]
            told = {"TORC_SPOOL_FUZZ": word, "TORC_SPOOL_CORPUS": corpus}
            done = subprocess.run(command, env={**os.environ, **told}, check=False)
        print(f"fuzz: {word}: {'nothing found' if done.returncode == 0 else 'FOUND SOMETHING'}", flush=True)
        found += [word] if done.returncode else []
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
