"""What the fuzzers begin with: a fuzzer that has seen no spec takes days to make up one."""

from __future__ import annotations

import json
import pathlib

import yaml

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"

_ATTEMPT = {"attempt": 1, "outcome": "failed", "return_code": 3, "runner": "n1-7-0123abcd", "start_time": 1.5}
_JOB = {
    "id": 1,
    "name": "a",
    "command": "true",
    "priority": 5,
    "scheduler": "gpu",
    "resources": {"num_cpus": 2, "memory_bytes": 1 << 30, "runtime_s": 60},
    "depends_on": [2],
    "env": {"X": "y"},
    "attempts": [_ATTEMPT, {**_ATTEMPT, "attempt": 2, "inputs": {"a": [1, 2, None]}}],
}
_WORKFLOW = {
    "id": 1,
    "name": "w",
    "num_jobs": 1,
    "num_edges": 0,
    "cwd": "/",
    "schedulers": [{"name": "gpu"}],
    "failure_handlers": [{"name": "h", "rules": [{"exit_codes": [3], "max_retries": 2}]}],
    "digests": {"jobs.jsonl": "0123456789abcdef"},
}
_ACTION = {"number": 1, "trigger": "on_jobs_ready", "kind": "run_commands", "jobs": [1], "commands": ["true"]}
_START = {"event": "start", "id": 1, "attempt": 1, "pid": 7, "time": 1.5, "stdout": "/a", "stderr": "/b"}
_END = {"event": "end", "id": 1, "attempt": 1, "outcome": "completed"}
_KEPT = {"version": 1, "settings": {"poll_s": 30.0, "lock": True, "lease_s": 300.0}}


def of(target: str) -> list[bytes]:
    """Valid input of a target."""
    if target.startswith("spec-") or target == "profile":
        pattern = "profiles/*.y*ml" if target == "profile" else "*.yaml"
        texts = [path.read_text() for path in sorted(EXAMPLES.glob(pattern))]
        as_json = target in ("spec-json", "spec-json5")
        return [(json.dumps(yaml.safe_load(text)) if as_json else text).encode() for text in texts]
    lines = {
        "names": [
            "999900-000000042.1.k-c16g2n1m131072t28800-train~000000001.2.json",
            "001.1-on_jobs_ready~n1-7-0123abcd~0.json",
        ],
        "slurm": ["7|RUNNING|2026-01-01T00:00:00|Unknown|me|n[1-3,7]", "n[01-03],m1"],
        "quantities": ["1.5g", "PT1H30M", "P0DT3H", "1-02:03:04"],
        "journal": [f"{json.dumps(_START)}\n{json.dumps(_END)}\n"],
        "job": [json.dumps(_JOB)],
        "workflow": [json.dumps(_WORKFLOW)],
        "action": [json.dumps(_ACTION)],
        "doctor": [json.dumps(_KEPT)],
    }
    return [text.encode() for text in lines[target]]
