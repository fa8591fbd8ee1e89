"""Planning allocations: partitions, groups, walltimes, numbers, and the specification that comes of it."""

from __future__ import annotations

import math
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from torc_spool import generate, siteprofile, slurmplan, spec, specschema
from torc_spool.errors import SpecError, UsageError
from torc_spool.model import Resources, Trigger
from torc_spool.siteprofile import Partition
from torc_spool.slurmplan import Terms, Wanted

HOUR = 3600
GIB = 2**30
SHORT = Partition("short", 64, 245760, 0, 100, 4 * HOUR, is_default=True)
STANDARD = Partition("standard", 64, 245760, 0, 400, 48 * HOUR)
GPU = Partition("gpu", 32, 368640, 4, 20, 48 * HOUR)
SITE = (STANDARD, SHORT, GPU)


def wanted(**needs: Any) -> Wanted:
    return Wanted(1, "j", "r", Resources(**needs), 1)


def generated(document: dict[str, Any], *, overwrite: bool = False, **terms: Any) -> generate.Generated:
    content = msgspec.json.encode(document)
    return generate.generate(content, "spec.json", SITE, Terms(**terms), account="acct", overwrite=overwrite)


# -- sites


@pytest.mark.parametrize(
    ("gres", "count"),
    [
        ("(null)", 0),
        ("gpu:4", 4),
        ("gpu", 1),
        ("gpu:a100:4(S:0-1)", 4),
        ("gpu:a100:2,gpu:v100:1,nvme:3", 3),
        ("gpu:8(IDX:0-7)", 8),
        ("nvme:2", 0),
    ],
)
def test_gpus_of_a_node(gres: str, count: int) -> None:
    assert siteprofile.gpus(gres) == count


def test_sinfo_is_read() -> None:
    text = (
        "short|short*|up|64|245760|(null)|100|4:00:00|1:00:00|1-infinite\n"
        "gpu|gpu|up|32|368640|gpu:a100:4(S:0-1)|20|2-00:00:00|n/a|1-8\n"
        "old|old|down|8|1000|(null)|1|infinite|n/a|1\n"
    )
    short, gpu = siteprofile.parse_sinfo(text).partitions
    assert short == SHORT._replace(default_walltime_s=HOUR)
    assert gpu == GPU._replace(max_nodes=8)
    (vast,) = siteprofile.parse_sinfo("p|p|up|128+|257000+|(null)|2K|infinite|n/a|1K-2K\n").partitions
    assert (vast.cpus_per_node, vast.num_nodes, vast.min_nodes, vast.max_nodes) == (128, 2048, 1024, 2048)


@pytest.mark.parametrize("text", ["", "a|b", "p|p|up|many|1|(null)|1|1:00|n/a|1-2"])
def test_what_is_not_sinfos_answer_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"^sinfo: "):
        siteprofile.parse_sinfo(text)


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ("", "site: is empty"),
        ("partitions: []", "partitions: is empty"),
        ("partitions: [{name: a}]", "partition 'a': cpus_per_node: is missing"),
        ("partitions: [{name: a, cpus_per_node: 1, max_walltime: soon}]", "max_walltime: 'soon' is not a time limit"),
        ("partitions: [{name: a, cpus_per_node: 1, memory: 1g}]", "unknown field 'memory'"),
        ("partitions: [{name: a, cpus_per_node: 1}, {name: a, cpus_per_node: 1}]", "is the name of partition number 1"),
        ("partitions: [{name: a, cpus_per_node: 1, min_nodes: 3, max_nodes: 2}]", "max_nodes: is less than min_nodes"),
    ],
)
def test_a_wrong_profile_is_refused_with_the_place(profile: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        siteprofile.parse(profile, "site")
    assert message in str(caught.value)


# -- choosing


@pytest.mark.parametrize(
    ("needs", "name"),
    [
        ({"num_cpus": 4, "runtime_s": HOUR}, "short"),
        ({"num_cpus": 4, "runtime_s": 5 * HOUR}, "standard"),
        ({"num_cpus": 4, "runtime_s": 4 * HOUR}, "standard"),  # a runner needs time of its own
        ({"num_cpus": 4, "num_gpus": 1, "runtime_s": HOUR}, "gpu"),
        ({"memory_bytes": 300 * GIB, "runtime_s": HOUR}, "gpu"),  # no other fits
        ({}, "short"),
    ],
)
def test_the_partition_that_fits_with_the_least_waste(needs: dict[str, Any], name: str) -> None:
    assert slurmplan.choose(wanted(**needs), SITE).name == name


@pytest.mark.parametrize(("memory", "name"), [(GIB, "short"), (600 * GIB, "highmem")])
def test_large_nodes_are_left_to_those_who_need_them_although_their_limit_is_shorter(memory: int, name: str) -> None:
    highmem = SHORT._replace(name="highmem", memory_mib=1 << 20, max_walltime_s=2 * HOUR, is_default=False)
    job = wanted(num_cpus=4, memory_bytes=memory, runtime_s=HOUR)
    assert slurmplan.choose(job, [*SITE, highmem]).name == name


def test_no_partition_fits() -> None:
    with pytest.raises(SpecError) as caught:
        slurmplan.choose(wanted(num_cpus=100, memory_bytes=GIB, runtime_s=HOUR), SITE)
    assert str(caught.value) == (
        "job 'j': no partition fits 100 cpus, 0 gpus and 1024 MiB on 1 node for PT1H2M (120 s of it for the runner's "
        "start and end); the largest, gpu, has 32 cpus, 4 gpus and 368640 MiB on each of its nodes (number: 20), "
        "and PT48H"
    )


# -- numbers


def planned(count: int, terms: Terms = slurmplan.USUAL, **needs: Any) -> slurmplan.Group:
    jobs = [Wanted(id_, f"j{id_}", "r", Resources(**needs), 1) for id_ in range(1, count + 1)]
    (group,) = slurmplan.plan(jobs, SITE, terms)
    return group


def test_walltime_and_numbers() -> None:
    group = planned(100, num_cpus=16, runtime_s=HOUR)
    assert (group.walltime_s, group.at_once, group.nodes) == (5400, 4, 1)
    assert group.stages[0].num_allocations == 25
    assert planned(100, Terms(max_nodes=10), num_cpus=16, runtime_s=HOUR).stages[0].num_allocations == 10
    limit = planned(100, Terms(strategy=slurmplan.BY_LIMIT), num_cpus=16, runtime_s=HOUR)
    assert (limit.walltime_s, limit.stages[0].num_allocations) == (4 * HOUR, 9)  # three waves and the runner's time
    together = planned(100, Terms(single_allocation=True), num_cpus=16, runtime_s=HOUR)
    assert (together.nodes, together.stages[0].num_allocations, together.one_runner_per_node) == (25, 1, True)


def test_more_allocations_than_nodes_wait_and_too_few_are_noted() -> None:
    many = planned(300, num_cpus=32, num_gpus=1, runtime_s=HOUR)  # a node of 20 each
    assert many.stages[0].num_allocations == 300
    assert "300 allocations, and gpu has 20 nodes: some wait for their turn" in generate.notes([many])[0]
    few = planned(300, Terms(max_nodes=10), num_cpus=32, num_gpus=1, runtime_s=HOUR)
    assert "has time for 10 of its 300 jobs" in generate.notes([few])[0]
    together = planned(300, Terms(single_allocation=True), num_cpus=32, num_gpus=1, runtime_s=HOUR)
    assert (together.nodes, together.stages[0].num_allocations) == (20, 1)
    assert "has time for 20 of its 300 jobs" in generate.notes([together])[0]
    assert generate.notes([planned(20, num_cpus=32, num_gpus=1, runtime_s=HOUR)]) == []


def test_jobs_of_several_nodes_have_an_allocation_each() -> None:
    group = planned(3, Terms(single_allocation=True), num_cpus=16, num_nodes=4, runtime_s=HOUR)
    assert (group.nodes, group.at_once, group.stages[0].num_allocations) == (4, 1, 3)
    assert not group.one_runner_per_node
    with pytest.raises(UsageError, match="needs 4 nodes"):
        planned(3, Terms(max_nodes=3), num_nodes=4)


def test_without_a_runtime_the_walltime_is_a_usual_one() -> None:
    group = planned(2)
    assert group.walltime_s == slurmplan.DEFAULT_WALLTIME_S
    assert "2 of 2 jobs of r_scheduler state no runtime" in generate.notes([group])[0]


needs = st.builds(
    Resources,
    num_cpus=st.integers(1, 32),
    num_gpus=st.integers(0, 4),
    num_nodes=st.integers(1, 8),
    memory_bytes=st.none() | st.integers(1, 240 * GIB),
    runtime_s=st.none() | st.integers(1, 47 * HOUR),
)
terms = st.builds(
    Terms,
    group_by=st.sampled_from([slurmplan.BY_REQUIREMENT, slurmplan.BY_PARTITION]),
    strategy=st.sampled_from([slurmplan.BY_JOBS, slurmplan.BY_LIMIT]),
    multiplier=st.floats(1, 5),
    single_allocation=st.booleans(),
    max_nodes=st.none() | st.integers(8, 50),
    room_s=st.just(slurmplan.ROOM_S),
)


@given(needs=st.lists(needs, min_size=1, max_size=4), jobs=st.data(), terms=terms)
def test_every_job_is_in_one_group_that_fits_it(needs: list[Resources], jobs: st.DataObject, terms: Terms) -> None:
    kinds = jobs.draw(st.lists(st.tuples(st.integers(0, len(needs) - 1), st.integers(1, 3)), min_size=1, max_size=20))
    listed = [Wanted(i, f"j{i}", f"r{kind}", needs[kind], stage) for i, (kind, stage) in enumerate(kinds, start=1)]
    groups = slurmplan.plan(listed, SITE, terms)
    found = [job for group in groups for stage in group.stages for job in stage.jobs]
    assert sorted(found) == sorted(listed)
    assert len({group.name for group in groups}) == len(groups)
    for group in groups:
        has = group.partition
        assert group.walltime_s <= (has.max_walltime_s or math.inf)
        assert group.nodes <= (has.num_nodes or math.inf)
        assert group.num_cpus <= has.cpus_per_node and group.num_gpus <= has.gpus_per_node
        assert (group.memory_mib or 0) <= (has.memory_mib or math.inf)
        for stage in group.stages:
            assert stage.num_allocations >= 1
            assert stage.num_allocations * group.nodes <= (terms.max_nodes or math.inf)
            time_for = stage.num_allocations * group.at_once * group.waves
            limited = terms.max_nodes is not None or terms.single_allocation
            assert time_for >= len(stage.jobs) or limited
            for job in stage.jobs:
                assert slurmplan.fits(job.resources, has)
                assert group.walltime_s >= (job.resources.runtime_s or 0)
                assert group.num_cpus >= job.resources.num_cpus and group.nodes >= job.resources.num_nodes


# -- specifications

PIPELINE = {
    "name": "p",
    "parameters": {"i": "1:3"},
    "resource_requirements": [
        {"name": "small", "num_cpus": 4, "memory": "8g", "runtime": "PT1H"},
        {"name": "large", "num_cpus": 8, "num_gpus": 2, "memory": "64g", "runtime": "PT8H"},
    ],
    "jobs": [
        {"name": "first", "command": "true", "resource_requirements": "small"},
        {"name": "train_{i}", "command": "true", "resource_requirements": "large", "use_parameters": ["i"],
         "depends_on": ["first"]},
        {"name": "last", "command": "true", "depends_on_regexes": ["^train_"]},
    ],
    "actions": [{"trigger_type": "on_workflow_start", "action_type": "run_commands", "commands": ["true"]}],
}  # fmt: skip


@pytest.mark.parametrize("group_by", [slurmplan.BY_REQUIREMENT, slurmplan.BY_PARTITION])
def test_a_generated_spec_covers_every_job_at_its_stage(group_by: str) -> None:
    made = generated(PIPELINE, group_by=group_by)
    assert yaml.safe_load(made.text) == made.document
    assert [item["name"] for item in made.document["jobs"]] == ["first", "train_{i}", "last"]
    asking = [action for action in made.spec.actions if action.kind == "schedule_nodes"]
    covered = {(action.scheduler, id_) for action in asking for id_ in action.jobs}
    for job in made.spec.jobs:
        if job.depends_on:
            assert (job.scheduler, job.id) in covered
        else:
            start = [each.scheduler for each in asking if each.trigger is Trigger.WORKFLOW_START]
            assert job.scheduler in start
    assert {action.scheduler for action in asking} == {scheduler["name"] for scheduler in made.spec.schedulers}
    assert made.spec.actions[0].kind == "run_commands"
    assert made.document["actions"][2]["job_name_regexes"] == ["^train_.+$"]


def test_a_regular_expression_that_finds_other_jobs_too_is_not_used() -> None:
    document = {**PIPELINE, "jobs": [*PIPELINE["jobs"], {"name": "train_x", "command": "true"}]}  # type: ignore[misc]
    made = generated(document)
    (action,) = [each for each in made.document["actions"] if each.get("scheduler") == "large_scheduler"]
    assert action["jobs"] == ["train_1", "train_2", "train_3"]


def test_jobs_of_one_item_with_several_requirements() -> None:
    jobs = [{"name": "{size}", "command": "true", "resource_requirements": "{size}",
             "parameters": {"size": ["small", "large"]}}]  # fmt: skip
    made = generated({**PIPELINE, "jobs": jobs})
    assert made.document["jobs"][0]["scheduler"] == "{size}_scheduler"
    assert [job.scheduler for job in made.spec.jobs] == ["small_scheduler", "large_scheduler"]
    with pytest.raises(SpecError, match="which one item cannot name; split it"):
        generated({**PIPELINE, "jobs": jobs}, group_by=slurmplan.BY_PARTITION)


def test_what_is_there_is_replaced_only_when_asked() -> None:
    made = generated(PIPELINE)
    with pytest.raises(SpecError, match="slurm_schedulers: some are there already"):
        generated(made.document)
    assert generated(made.document, overwrite=True).document == made.document


def test_the_schema_accepts_what_is_generated() -> None:
    made = generated(PIPELINE)
    jsonschema.Draft202012Validator(specschema.schema()).validate(made.document)
    assert spec.parse(made.text, "generated").schedulers[0]["account"] == "acct"
