"""Laws of specifications: any graph, any document, any text."""

from __future__ import annotations

import graphlib
import itertools
import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from spectext import LAW, document, dump, message

from torc_spool import specfile
from torc_spool.errors import SpecError
from torc_spool.model import WorkflowSpec
from torc_spool.quantities import MAX_MEMORY_BYTES
from torc_spool.spec import parse
from torc_spool.specrecords import JobRecord, RequirementRecord, WorkflowRecord

# Laws


@st.composite
def graphs(draw: st.DrawFn) -> list[list[int]]:
    """For each job the ids that it depends on: any graph, self-loops aside."""
    size = draw(st.integers(1, 12))
    ids = st.integers(1, size)
    return [sorted(draw(st.sets(ids, max_size=4)) - {node}) for node in range(1, size + 1)]


def workflow_of(graph: list[list[int]], order: list[int]) -> str:
    """A specification of the graph whose jobs are listed in another order."""
    jobs = [{"name": f"n{i}", "command": "x", "depends_on": [f"n{d}" for d in graph[i - 1]]} for i in order]
    return document(jobs=jobs)


def cycle_in(sentence: str) -> list[int]:
    """The cycle that a message names, its first member repeated at the end."""
    return [int(name[1:]) for name in sentence.split("circle: ")[1].split(" (")[0].split(" -> ")]


def is_cycle(named: list[int], graph: list[list[int]]) -> bool:
    closed = named[0] == named[-1] and len(set(named)) == len(named) - 1
    return closed and all(other in graph[one - 1] for one, other in itertools.pairwise(named))


@LAW
@given(graphs())
def test_a_graph_is_refused_exactly_when_it_has_a_cycle(graph: list[list[int]]) -> None:
    text = workflow_of(graph, list(range(1, len(graph) + 1)))
    try:
        graphlib.TopologicalSorter(dict(enumerate(graph, start=1))).prepare()
    except graphlib.CycleError:
        assert is_cycle(cycle_in(message(text)), graph)
    else:
        parse(text, "w")


@LAW
@given(graphs(), st.randoms())
def test_a_graph_without_cycle_is_accepted_in_any_order(graph: list[list[int]], random: Any) -> None:
    acyclic = [[d for d in wanted if d < node] for node, wanted in enumerate(graph, start=1)]
    order = list(range(1, len(graph) + 1))
    random.shuffle(order)
    workflow = parse(workflow_of(acyclic, order), "w")
    by_id = {job.id: job.name for job in workflow.jobs}
    for found in workflow.jobs:
        expected = [f"n{d}" for d in acyclic[int(found.name[1:]) - 1]]
        assert [by_id[d] for d in found.depends_on] == expected


@LAW
@given(graphs(), st.data())
def test_an_edge_back_is_refused_with_a_real_cycle(graph: list[list[int]], data: st.DataObject) -> None:
    path = [[d for d in wanted if d < node] for node, wanted in enumerate(graph, start=1)]
    size = len(path) + 2
    path += [[], []]
    low = data.draw(st.integers(1, size - 1))
    high = data.draw(st.integers(low + 1, size))
    for node in range(low + 1, high + 1):
        path[node - 1] = sorted({*path[node - 1], node - 1})
    path[low - 1] = [*path[low - 1], high]
    sentence = message(workflow_of(path, list(range(1, size + 1))))
    assert is_cycle(cycle_in(sentence), path)


FIELDS = sorted({*WorkflowRecord.__struct_fields__, *JobRecord.__struct_fields__, *RequirementRecord.__struct_fields__})
WORDS = st.sampled_from(["", "a", "b", "any", "4g", "PT1H", "yes", "5", "a\nb", "\0"])
KEYS = st.sampled_from(FIELDS) | WORDS
FINITE = st.floats(allow_nan=False, allow_infinity=False)
SCALARS: st.SearchStrategy[Any] = st.one_of(st.none(), st.booleans(), st.integers(), FINITE, WORDS, st.text(max_size=5))
FLAT = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(KEYS, SCALARS, max_size=4)
VALUES = FLAT | st.lists(FLAT, max_size=3) | st.dictionaries(KEYS, FLAT, max_size=4)
OPTIONAL = dict.fromkeys(set(JobRecord.__struct_fields__) - {"name", "command"}, VALUES)
JOBS = st.fixed_dictionaries({"name": WORDS, "command": WORDS}, optional=OPTIONAL)
SECTIONS = {
    "jobs": st.lists(JOBS, max_size=3),
    "resource_requirements": st.lists(st.dictionaries(KEYS, VALUES, max_size=4), max_size=3),
    "slurm_schedulers": st.lists(st.dictionaries(KEYS, VALUES, max_size=4), max_size=3),
}
NEARLY = st.fixed_dictionaries({"name": WORDS | SCALARS}, optional=SECTIONS) | VALUES


NAMES = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=9).filter(str.strip)
COMMANDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@st.composite
def valid_documents(draw: st.DrawFn) -> dict[str, Any]:
    """What must be accepted, with every field given or not."""
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    requirements = draw(st.lists(NAMES, max_size=3, unique=True))
    bound = draw(st.lists(st.sampled_from(["cpu", "gpu", "8"]), max_size=3, unique=True))
    optional = {
        "num_cpus": st.integers(1, 100_000),
        "num_gpus": st.none() | st.integers(0, 10_000),
        "memory": st.just("1.5g") | st.integers(1, MAX_MEMORY_BYTES),
        "runtime": st.just("PT1H30M"),
    }
    jobs = []
    for index, name in enumerate(names):
        fields: dict[str, st.SearchStrategy[Any]] = {
            "priority": st.none() | st.integers(0, 999_999),
            "depends_on": st.lists(st.sampled_from(names[:index] or [""]), max_size=3 if index else 0),
            "supports_termination": st.booleans(),
            "cancel_on_blocking_job_failure": st.booleans(),
            "resource_requirements": st.sampled_from([None, *requirements]),
            draw(st.sampled_from(["scheduler", "slurm_scheduler"])): st.sampled_from([None, *bound]),
        }
        required = {"name": st.just(name), "command": COMMANDS}
        jobs.append(draw(st.fixed_dictionaries(required, optional=fields)))
    return {
        "name": draw(NAMES),
        "description": draw(st.none() | st.text()),
        "jobs": jobs,
        "resource_requirements": [
            draw(st.fixed_dictionaries({"name": st.just(name)}, optional=optional)) for name in requirements
        ],
        "slurm_schedulers": [{"name": name, "qos": draw(FINITE | st.text())} for name in bound],
    }


@LAW
@given(valid_documents())
def test_valid_documents_are_accepted_as_yaml_and_as_json(value: dict[str, Any]) -> None:
    workflow = parse(json.dumps(value), "w.json")
    assert parse(dump(value), "w.yaml") == workflow
    assert parse(dump(value, allow_unicode=True, default_flow_style=True), "w.yaml") == workflow
    assert [job.id for job in workflow.jobs] == list(range(1, len(value["jobs"]) + 1))
    for made, said in zip(workflow.jobs, value["jobs"], strict=True):
        assert (made.name, made.command) == (said["name"], said["command"])
        assert made.priority == (said.get("priority") or 0)
        assert made.scheduler == (said.get("scheduler") or said.get("slurm_scheduler"))
        assert [workflow.jobs[i - 1].name for i in made.depends_on] == list(dict.fromkeys(said.get("depends_on", [])))


def outcome(text: str | bytes, source: str) -> WorkflowSpec | None:
    """The workflow, or None where it was refused as it should be."""
    try:
        return parse(text, source)
    except SpecError as error:
        assert "\n" not in str(error)
        return None


@LAW
@given(NEARLY)
def test_documents_are_read_or_refused_and_json_is_read_as_yaml_is(value: Any) -> None:
    as_yaml = outcome(dump(value, allow_unicode=False), "w.yaml")
    as_json = outcome(json.dumps(value), "w.json")
    assert as_yaml == as_json


@LAW
@given(st.text())
@example("a: !<x> b")
@example("? ")
@example("- - ? : -")
@example("&a *a")
def test_any_text_is_read_or_refused(text: str) -> None:
    outcome(text, "w.yaml")
    outcome("{" + text, "w.json")


@LAW
@given(st.binary())
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    outcome(content, "w.yaml")


PIECES = [
    "name: w\n",
    "jobs:\n",
    "- ",
    "name: a\n",
    "  command: x\n",
    "&a ",
    "*a",
    "<<: ",
    "[",
    "]",
    "{",
    "}",
]
PIECES += [
    ",",
    ": ",
    "!!str ",
    "!",
    "'",
    '"',
    "|\n",
    ">\n",
    "\t",
    "\n",
    "  ",
    "#",
    "---\n",
    "...\n",
    "? ",
    "%",
    "~",
]


@LAW
@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_any_pieces_of_yaml_are_read_or_refused(text: str) -> None:
    outcome(text, "w.yaml")
    outcome(f"name: w\njobs:\n- name: a\n  command: x\n{text}", "w.yaml")


INTEGERS = st.integers(-(10**18) + 1, 10**18 - 1)
PLAIN_SCALARS = st.none() | st.booleans() | INTEGERS | FINITE | st.text()
PLAIN_FLAT = (
    PLAIN_SCALARS
    | st.lists(PLAIN_SCALARS, max_size=4)
    | st.dictionaries(st.text(max_size=100), PLAIN_SCALARS, max_size=4)
)
PLAIN = PLAIN_FLAT | st.lists(PLAIN_FLAT, max_size=4) | st.dictionaries(st.text(max_size=100), PLAIN_FLAT, max_size=4)


@LAW
@given(PLAIN)
def test_what_yaml_writes_is_read_back_as_it_was(value: Any) -> None:
    assert specfile.read_document(dump(value), "w.yaml") == value
