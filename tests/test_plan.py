"""Stages, the critical path and the graph: laws on small graphs, cost on large ones, and what the command shows."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import cliutil
import pytest
from cliutil import Lab
from hypothesis import given, settings
from hypothesis import strategies as st
from linecount import lines

from torc_spool import dot
from torc_spool import plan as plan_module
from torc_spool.model import Action, Job, Resources, Trigger
from torc_spool.plan import Circle, as_data, groups, plan
from torc_spool.quantities import format_duration, parse_duration

LAW = settings(deadline=None)  # no test fails because the machine is busy

lab = cliutil.lab


def job(id_: int, *depends_on: int, name: str | None = None, runtime: int | None = None, **needs: Any) -> Job:
    resources = Resources(runtime_s=runtime, **needs)
    return Job(id=id_, name=name or f"job {id_}", command="true", depends_on=depends_on, resources=resources)


@st.composite
def workflows(draw: st.DrawFn) -> list[Job]:
    """Up to eight jobs, each waiting for some of those before it; ids are in no order of their own."""
    ids = draw(st.permutations(range(1, draw(st.integers(1, 8)) + 1)))
    jobs = [
        job(
            id_,
            *(draw(st.lists(st.sampled_from(ids[:place]), max_size=4)) if place else ()),
            runtime=draw(st.none() | st.integers(1, 5)),
            num_cpus=draw(st.integers(1, 4)),
        )
        for place, id_ in enumerate(ids)
    ]
    return draw(st.permutations(jobs))


def chains(jobs: list[Job]) -> Iterator[list[Job]]:
    """Every chain of dependencies, by brute force."""
    by_id = {each.id: each for each in jobs}

    def ending_in(last: Job) -> Iterator[list[Job]]:
        yield [last]
        for other in set(last.depends_on):
            for chain in ending_in(by_id[other]):
                yield [*chain, last]

    for each in jobs:
        yield from ending_in(each)


def seconds(chain: list[Job] | tuple[Job, ...]) -> int:
    return sum(each.resources.runtime_s or 0 for each in chain)


# --- laws


@LAW
@given(workflows())
def test_every_job_is_in_exactly_one_stage_and_its_number_is_that_of_its_longest_chain(jobs: list[Job]) -> None:
    found = plan(jobs)
    number = {each.id: stage.number for stage in found.stages for each in stage.jobs}
    assert sorted(each.id for stage in found.stages for each in stage.jobs) == sorted(each.id for each in jobs)
    assert [stage.number for stage in found.stages] == list(range(1, len(found.stages) + 1))
    for each in jobs:
        assert number[each.id] == max(len(chain) for chain in chains(jobs) if chain[-1] is each)
        assert all(number[other] < number[each.id] for other in each.depends_on)


@LAW
@given(workflows())
def test_the_critical_path_is_a_chain_and_none_is_longer(jobs: list[Job]) -> None:
    found = plan(jobs)
    path = found.critical_path
    assert all(one.id in next_.depends_on for one, next_ in itertools.pairwise(path))
    best = max((seconds(chain), len(chain)) for chain in chains(jobs))
    assert (found.critical_s, len(path)) == best
    assert found.critical_s == seconds(path)


@LAW
@given(workflows())
def test_a_stage_waits_for_what_its_jobs_name(jobs: list[Job]) -> None:
    for stage in plan(jobs).stages:
        named = {other for each in stage.jobs for other in each.depends_on}
        assert [other.id for other in stage.waits_for] == sorted(named)


@LAW
@given(workflows())
def test_figures_are_sums_over_the_jobs(jobs: list[Job]) -> None:
    found = plan(jobs)
    assert found.num_jobs == len(jobs)
    assert sum(stage.num_cpus for stage in found.stages) == sum(each.resources.num_cpus for each in jobs)
    work = sum(each.resources.num_cpus * (each.resources.runtime_s or 0) for each in jobs)
    assert found.cpu_hours == pytest.approx(work / 3600)
    assert len(found.widest.jobs) == max(len(stage.jobs) for stage in found.stages)


@LAW
@given(st.lists(st.text("a.1-e", min_size=1, max_size=5), max_size=8))
def test_groups_hold_every_job_once_in_order(names: list[str]) -> None:
    jobs = [job(number, name=name) for number, name in enumerate(names, 1)]
    found = groups(jobs)
    assert sorted(each.id for group in found for each in group.jobs) == [each.id for each in jobs]
    firsts = [group.jobs[0].id for group in found]
    assert firsts == sorted(firsts)
    assert all([each.id for each in group.jobs] == sorted(each.id for each in group.jobs) for group in found)


@LAW
@given(st.integers(1, 10 * 365 * 24 * 3600))
def test_a_duration_is_read_as_it_was_written(duration: int) -> None:
    assert parse_duration(format_duration(duration)) == duration


# --- single points


def test_what_a_stage_takes_counts_nodes_and_a_mebibyte_where_no_memory_is_stated() -> None:
    wide = job(2, num_cpus=4, num_gpus=2, num_nodes=3, memory_bytes=1 << 30, runtime=7200)
    (stage,) = plan([job(1), wide]).stages
    assert (stage.num_cpus, stage.num_gpus, stage.memory_bytes) == (13, 6, (3 << 30) + (1 << 20))
    assert stage.longest_runtime_s == 7200
    assert plan([job(1), wide]).cpu_hours == 24.0


def test_numbers_in_names_are_what_groups_ignore() -> None:
    names = ["train_001", "eval lr=0.1", "train_100", "eval lr=1e-05", "end"]
    found = groups(job(number, name=name) for number, name in enumerate(names, 1))
    assert [str(group) for group in found] == [
        "train_001 … train_100 (2 jobs)",
        "eval lr=0.1 … eval lr=1e-05 (2 jobs)",
        "end",
    ]


def test_a_circle_is_refused() -> None:
    with pytest.raises(Circle, match="2 jobs wait for each other in a circle"):
        plan([job(1), job(2, 3), job(3, 2, 1)])


def test_without_jobs_there_is_nothing_to_do() -> None:
    assert as_data(plan([]))["stages"] == []


def test_actions_are_shown_where_they_are_performed() -> None:
    jobs = [job(1), job(2, 1), job(3, 2), job(4, 3)]
    wanted = {
        Trigger.WORKFLOW_START: ((), 1, "before"),
        Trigger.JOBS_READY: ((2, 3), 3, "before"),
        Trigger.JOBS_COMPLETE: ((1, 2), 2, "after"),
        Trigger.WORKFLOW_COMPLETE: ((), 4, "after"),
        Trigger.WORKER_START: ((), None, None),
        Trigger.WORKER_COMPLETE: ((), None, None),
    }
    actions = [
        Action(number=number, trigger=trigger, kind="run_commands", jobs=ids, commands=("date",))
        for number, (trigger, (ids, _, _)) in enumerate(wanted.items(), 1)
    ]
    rows = as_data(plan(jobs, actions))["actions"]
    assert [(row["stage"], row["when"]) for row in rows] == [(stage, when) for _, stage, when in wanted.values()]
    assert rows[1]["jobs"] == ["job 2", "job 3"]


# --- cost: lines of the module that are executed, which no busy machine changes


def into_one(size: int) -> list[Job]:
    return [*(job(each) for each in range(1, size + 1)), job(size + 1, *range(1, size + 1))]


def chain(size: int) -> list[Job]:
    return [job(each, *([each - 1] if each > 1 else [])) for each in range(1, size + 1)]


def barrier(size: int) -> list[Job]:
    last = size + 2
    return [job(1), *(job(each, 1) for each in range(2, last)), job(last, *range(2, last))]


@pytest.mark.parametrize("shape", [into_one, chain, barrier], ids=lambda shape: shape.__name__)
def test_twice_the_edges_are_twice_the_work(shape: Callable[[int], list[Job]]) -> None:
    def work(jobs: list[Job]) -> None:
        found = plan(jobs)
        as_data(found)
        list(dot.digraph("name", found, grouped=True))

    small, large = shape(100), shape(200)
    few, many = (lines(lambda: work(small), plan_module, dot), lines(lambda: work(large), plan_module, dot))
    assert many <= 2.1 * few


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "stages"), [(into_one, 2), (chain, 100_000)], ids=["fan-in", "chain"])
def test_a_hundred_thousand_jobs_need_no_recursion(shape: Callable[[int], list[Job]], stages: int) -> None:
    found = plan(shape(100_000))
    assert (len(found.stages), len(found.critical_path)) == (stages, stages)


# --- Graphviz

_WORD = r'(?:"(?:[^"\\]|\\.)*"|\w+)'
_STATEMENT = re.compile(
    rf"  (?:rankdir=LR; node \[shape=box\];|\{{ rank=same;(?: j\d+;)+ \}}"
    rf"|(?P<node>j\d+) \[label=(?P<label>{_WORD})\];"
    rf"|(?P<tail>j\d+) -> (?P<head>j\d+)(?: \[label=(?P<edges>{_WORD})\])?;)",
    re.DOTALL,
)


def read_dot(text: str) -> tuple[dict[str, str], dict[tuple[str, str], str | None]]:
    """Nodes with their labels, edges with theirs; every line must be one that Graphviz's grammar has."""
    first, *body, last = text.split("\n")[:-1]
    assert re.fullmatch(rf"digraph {_WORD} \{{", first)
    assert last == "}"
    nodes: dict[str, str] = {}
    edges: dict[tuple[str, str], str | None] = {}
    for line in body:
        match = _STATEMENT.fullmatch(line)
        assert match, line
        if match["node"]:
            label = re.sub(r"\\(.)", r"\1", match["label"][1:-1])
            nodes[match["node"]] = label.replace("&amp;", "&")
        elif match["tail"]:
            edges[match["tail"], match["head"]] = match["edges"]
    return nodes, edges


@LAW
@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=4), st.text(max_size=5))
def test_hostile_names_stay_names_in_the_graph(names: list[str], title: str) -> None:
    found = plan([job(number, name=name) for number, name in enumerate(names, 1)])
    nodes, edges = read_dot("".join(f"{line}\n" for line in dot.digraph(title, found, grouped=False)))
    assert edges == {}
    for number, name in enumerate(names, 1):
        assert all(char.isprintable() for char in nodes[f"j{number}"])
        if name.isprintable():
            assert nodes[f"j{number}"] == name


@LAW
@given(workflows())
def test_the_graph_has_a_node_for_each_job_and_an_edge_for_each_dependency(jobs: list[Job]) -> None:
    nodes, edges = read_dot("".join(f"{line}\n" for line in dot.digraph("g", plan(jobs), grouped=False)))
    assert nodes == {f"j{each.id}": each.name for each in jobs}
    assert set(edges) == {(f"j{other}", f"j{each.id}") for each in jobs for other in each.depends_on}


def test_alike_jobs_of_a_stage_are_one_node_with_their_number() -> None:
    found = plan([job(1), *(job(each, 1, name=f"w {each}") for each in (2, 3)), job(4, 2, 3, name="end")])
    nodes, edges = read_dot("".join(f"{line}\n" for line in dot.digraph("g", found, grouped=True)))
    assert nodes == {"j1": "job 1", "j2": "w 2 … w 3 (2 jobs)", "j4": "end"}
    assert edges == {("j1", "j2"): '"2 edges"', ("j2", "j4"): '"2 edges"'}


# --- the command


def sweep(lab: Lab, size: int) -> None:
    jobs: list[str | dict[str, Any]] = [{"name": "setup", "resource_requirements": "small"}]
    jobs += [{"name": f"train_{number:03d}", "depends_on": ["setup"]} for number in range(1, size + 1)]
    jobs.append({"name": "report", "depends_on": [f"train_{number:03d}" for number in range(1, size + 1)]})
    lab.spec(*jobs, resource_requirements=[{"name": "small", "num_cpus": 2, "runtime": "PT1H"}])


def test_it_shows_the_stages_of_a_spec_and_submits_nothing(lab: Lab) -> None:
    sweep(lab, 3)
    assert lab.torc("execution-plan", "spec.json").stdout == (
        "workflow flow: 5 jobs in 3 stages\n"
        "widest: stage 2 with 3 jobs\n"
        "critical path: PT1H (2 of 3 jobs state none and count as 0): setup -> train_001 -> report\n"
        "work: 2 cpu-hours by stated runtimes (4 of 5 jobs state none and count as 0)\n"
        "\n"
        "stage 1: 1 job\n"
        "  setup\n"
        "  all at once: 2 cpus, 1 MiB\n"
        "  longest runtime: PT1H\n"
        "\n"
        "stage 2: 3 jobs\n"
        "  train_001 … train_003 (3 jobs)\n"
        "  waits for: setup\n"
        "  all at once: 3 cpus, 3 MiB\n"
        "\n"
        "stage 3: 1 job\n"
        "  report\n"
        "  waits for: train_001 … train_003 (3 jobs)\n"
        "  all at once: 1 cpu, 1 MiB\n"
    )
    assert not lab.spool.exists()


def test_json_names_every_job_and_stdin_is_a_spec(lab: Lab) -> None:
    sweep(lab, 3)
    text = (lab.cwd / "spec.json").read_text()
    row = lab.torc("execution-plan", "-", "-f", "json", stdin=text).json
    assert row["id"] is None
    assert [stage["names"] for stage in row["stages"]][1] == ["train_001", "train_002", "train_003"]
    assert [stage["states"] for stage in row["stages"]] == [None, None, None]
    assert row["critical_path"] == {
        "jobs": ["setup", "train_001", "report"],
        "runtime_s": 3600,
        "runtime": "PT1H",
        "without_runtime": 2,
    }


def test_of_a_submitted_workflow_it_shows_how_each_stage_stands(lab: Lab) -> None:
    lab.submit("true", {"name": "fails", "command": "exit 1"}, {"name": "end", "depends_on": ["j1", "fails"]})
    before = lab.torc("-f", "json", "execution-plan", 1).json
    assert (before["id"], before["stages"][0]["states"]) == (1, {"ready": 2})
    assert before["stages"][1]["states"] == {"blocked": 1}
    lab.run(1, code=1)
    for named in (1, "1-flow", lab.root()):
        assert re.findall("now: (.*)", lab.torc("execution-plan", named).stdout) == [
            "1 completed, 1 failed",
            "1 canceled",
        ]


def test_a_job_that_was_set_aside_is_counted_so(lab: Lab) -> None:
    lab.submit("true", "true")
    (lab.root() / "ready" / "any" / lab.ls("ready/any")[0]).rename(lab.root() / "aside" / lab.ls("ready/any")[0])
    assert "now: 1 ready, 1 set_aside" in lab.torc("execution-plan", 1).stdout


def test_large_graphs_are_grouped_unless_all_is_wanted(lab: Lab) -> None:
    sweep(lab, 300)
    done = lab.torc("execution-plan", "spec.json", "--dot")
    assert done.stderr == "302 jobs: those that are named alike are one node; --all shows every job\n"
    assert sorted(read_dot(done.stdout)[0].values()) == ["report", "setup", "train_001 … train_300 (300 jobs)"]
    whole = lab.torc("execution-plan", "spec.json", "--dot", "--all")
    assert whole.stderr == ""
    nodes, edges = read_dot(whole.stdout)
    assert (len(nodes), len(edges)) == (302, 600)


def test_many_unlike_names_are_cut_in_text(lab: Lab) -> None:
    letters = ["".join(pair) for pair in itertools.product("abcdefgh", repeat=2)]
    lab.spec(*({"name": f"only {letter}"} for letter in letters))
    text = lab.torc("execution-plan", "spec.json").stdout
    assert "  ... and 44 jobs more\n" in text
    assert len(text.splitlines()) < 30


def test_what_makes_no_sense_is_refused_in_one_sentence(lab: Lab) -> None:
    sweep(lab, 1)
    said = {
        ("nothing.yaml",): "there is no such file, and it is not a workflow's id",
        (7,): "no spool at",
        ("spec.json", "--dot", "-f", "json"): "give either --dot or -f json",
        ("spec.json", "--all"): "--all goes with --dot",
    }
    for words, sentence in said.items():
        assert sentence in lab.torc("execution-plan", *words, code=2).sentence()


def test_a_circle_in_a_workflow_s_record_is_said_to_be_damage(lab: Lab) -> None:
    lab.submit("true", {"name": "end", "depends_on": ["j1"]})
    record = lab.root() / "jobs.jsonl"
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    rows[0]["depends_on"] = [2]
    record.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert "jobs.jsonl: 2 jobs wait for each other in a circle" in lab.torc("execution-plan", 1, code=2).sentence()


def test_a_workflow_whose_record_holds_no_job_has_no_stages(lab: Lab) -> None:
    lab.submit("true")
    (lab.root() / "jobs.jsonl").write_text("")
    assert lab.torc("execution-plan", 1).stdout == "workflow 1 flow: 0 jobs in 0 stages\n"
    assert lab.torc("-f", "json", "execution-plan", 1).json["widest_stage"] is None
    assert read_dot(lab.torc("execution-plan", 1, "--dot").stdout) == ({}, {})
