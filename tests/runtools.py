"""Jobs and needs for tests of runners as processes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from cliutil import Lab

slow = partial(pytest.param, marks=pytest.mark.slow)

REQUIREMENTS = [
    {"name": "one gpu", "num_gpus": 1},
    {"name": "two cpus", "num_cpus": 2},
    {"name": "huge", "num_cpus": 5000, "memory": "9t", "num_gpus": 99},
    {"name": "two nodes", "num_nodes": 2},
    {"name": "long", "runtime": "PT2H"},
    {"name": "a second", "runtime": "PT1S"},
    {"name": "small", "memory": "64m"},
]


def job(name: str, command: str = "true", needs: str | None = None, **more: object) -> dict[str, object]:
    return {"name": name, "command": command, **({"resource_requirements": needs} if needs else {}), **more}


def output(lab: Lab, name: str, workflow: int = 1) -> str:
    return Path(lab.job(name, workflow)["stdout"]).read_text()
