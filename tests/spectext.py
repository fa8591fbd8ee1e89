"""Specifications as text, and the one sentence with which one is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import settings

from torc_spool.errors import EXIT_USAGE, SpecError
from torc_spool.spec import parse

LAW = settings(deadline=None)  # no test fails because the machine is busy
ONE_JOB = "jobs: [{name: a, command: run}]"


def cases(arguments: str | tuple[str, ...], named: dict[str, Any]) -> pytest.MarkDecorator:
    """Parametrizes by name: each key is the name of a case, each value its row."""
    return pytest.mark.parametrize(arguments, list(named.values()), ids=list(named))


def dump(value: Any, **options: Any) -> str:
    """As yaml.safe_dump does, by libyaml."""
    text: str = yaml.dump(value, Dumper=yaml.CSafeDumper, **options)
    return text


def message(text: str | bytes, source: str = "w.yaml") -> str:
    """The one sentence with which a text is refused."""
    with pytest.raises(SpecError) as caught:
        parse(text, source)
    assert caught.value.exit_code == EXIT_USAGE
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def document(**fields: Any) -> str:
    """A workflow of one job, with fields replaced or added (None: left out)."""
    whole = {"name": "w", "jobs": [{"name": "a", "command": "run"}]} | fields
    return json.dumps({key: value for key, value in whole.items() if value is not None})


def job(**fields: Any) -> str:
    return document(jobs=[{"name": "a", "command": "run"} | fields])


def requirement(**fields: Any) -> str:
    return document(resource_requirements=[{"name": "r"} | fields])


def schedulers(*items: Any) -> str:
    return document(slurm_schedulers=list(items))


def chain(names: list[str]) -> list[dict[str, Any]]:
    """Jobs each of which depends on the one before it."""
    jobs: list[dict[str, Any]] = [{"name": name, "command": "run"} for name in names]
    for before, after in zip(names, jobs[1:], strict=False):
        after["depends_on"] = [before]
    return jobs


# What is accepted

SEED_RESOURCES = """\
name: seed
resource_requirements:
  - name: small
    num_cpus: 2
    num_gpus: 0
    memory: 4g
    runtime: PT30M
  - name: large
    num_cpus: 16
    num_gpus: 2
    memory: 128g
    runtime: PT8H
jobs:
  - name: preprocessing
    command: ./preprocess.sh
    resource_requirements: small
  - name: model_training
    command: python train.py
    resource_requirements: large
"""
