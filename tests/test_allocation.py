"""What a runner takes from the environment of its allocation, as a real Slurm sets it."""

from __future__ import annotations

from typing import Any

import pytest

from torc_spool import allocation
from torc_spool.capacity import Capacity
from torc_spool.options import OWN_END, WALLTIME_END

NODE = Capacity(num_cpus=64, memory_mib=512_000)
BATCH = {"SLURM_JOB_ID": "80", "SLURM_JOB_NUM_NODES": "2", "SLURM_NNODES": "2", "SLURM_CPUS_ON_NODE": "2"}
STEP = {**BATCH, "SLURM_STEP_ID": "0", "SLURM_NNODES": "1"}


@pytest.mark.parametrize(
    ("environ", "cpus"),
    [
        ({}, 64),
        ({"SLURM_CPUS_ON_NODE": "8"}, 8),
        ({"SLURM_CPUS_ON_NODE": "128"}, 64),
        ({"SLURM_CPUS_ON_NODE": "8", "SLURM_JOB_CPUS_PER_NODE": "8(x2),4", "SLURM_JOB_NUM_NODES": "3"}, 4),
        ({"SLURM_CPUS_ON_NODE": "8", "SLURM_JOB_CPUS_PER_NODE": "8(x2)", "SLURM_JOB_NUM_NODES": "2"}, 8),
        ({"SLURM_CPUS_ON_NODE": "what"}, 64),
    ],
    ids=["none", "fewer", "more-than-there-are", "unlike-nodes", "like-nodes", "odd"],
)
def test_cpus_are_those_of_the_smallest_node(environ: dict[str, str], cpus: int) -> None:
    assert allocation.confine(NODE, environ).num_cpus == cpus


@pytest.mark.parametrize(
    ("environ", "memory"),
    [
        ({"SLURM_MEM_PER_NODE": "8000"}, 8000),
        ({"SLURM_MEM_PER_NODE": "0"}, 512_000),
        ({"SLURM_MEM_PER_CPU": "1024", "SLURM_CPUS_ON_NODE": "4"}, 4096),
        ({"SLURM_MEM_PER_GPU": "1000", "SLURM_GPUS_ON_NODE": "2"}, 2000),
        ({"SLURM_MEM_PER_NODE": "9999999"}, 512_000),
        ({}, 512_000),
    ],
    ids=["node", "all-of-it", "cpu", "gpu", "more-than-there-is", "unsaid"],
)
def test_memory_is_read_in_whichever_way_it_was_asked_for(environ: dict[str, str], memory: int) -> None:
    assert allocation.confine(NODE, environ).memory_mib == memory


@pytest.mark.parametrize(
    ("environ", "nodes"),
    [(BATCH, 2), (STEP, 1), ({**BATCH, "SLURM_STEP_ID": str(0xFFFFFFFA)}, 2), ({}, 1)],
    ids=["script", "one-of-srun", "salloc", "outside"],
)
def test_the_script_has_all_nodes_and_a_task_of_srun_its_own(environ: dict[str, str], nodes: int) -> None:
    assert allocation.confine(NODE, environ).num_nodes == nodes


def test_gpus_that_slurm_only_counts_have_numbers() -> None:
    has = allocation.confine(NODE, {"SLURM_GPUS_ON_NODE": "2"})
    assert (has.gpus, has.gpu_variable) == (("0", "1"), "CUDA_VISIBLE_DEVICES")


def test_gpus_that_are_made_visible_keep_their_names() -> None:
    has = allocation.detect({**BATCH, "SLURM_GPUS_ON_NODE": "2", "CUDA_VISIBLE_DEVICES": "3,5"})
    assert has.gpus == ("3", "5")


@pytest.mark.parametrize(("value", "found"), [("80", "80"), ("", None), ("8x", None), ("-1", None), (None, None)])
def test_the_number_of_the_allocation(value: str | None, found: str | None) -> None:
    assert allocation.job_id({} if value is None else {"SLURM_JOB_ID": value}) == found


def limit(left: float | None, asked: float | None = None, **settings: Any) -> tuple[float | None, str]:
    environ = {} if left is None else {"SLURM_JOB_ID": "80", "SLURM_JOB_END_TIME": str(int(1e6 + left))}
    return allocation.time_limit(asked, settings, lambda _: None, environ, clock=lambda: 1e6)[:2]


@pytest.mark.parametrize(
    ("left", "asked", "settings", "expected"),
    [
        (None, None, {}, (None, OWN_END)),
        (None, 600, {}, (600, OWN_END)),
        (3600, None, {}, (3510, WALLTIME_END)),
        (300, None, {}, (270, WALLTIME_END)),
        (3600, 600, {}, (600, OWN_END)),
        (3600, 3600, {}, (3510, WALLTIME_END)),
        (3600, None, {"compute_node_expiration_buffer_seconds": 300}, (3300, WALLTIME_END)),
        (100, None, {"compute_node_expiration_buffer_seconds": 300}, (0, WALLTIME_END)),
    ],
    ids=["outside", "asked", "margin", "short", "asked-shorter", "asked-longer", "setting", "setting-too-long"],
)
def test_a_runner_ends_before_its_allocation(
    left: float | None, asked: float | None, settings: dict[str, Any], expected: tuple[float | None, str]
) -> None:
    assert limit(left, asked, **settings) == expected


def test_the_patience_of_a_runner_is_that_of_the_spec() -> None:
    assert allocation.patience({}) == 0
    assert allocation.patience({"compute_node_wait_for_new_jobs_seconds": 90}) == 90


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("c1", "c1"),
        ("c1,g1", "c1 g1"),
        ("c[1-3,07,9-10],g1", "c1 c2 c3 c07 c9 c10 g1"),
        ("n[098-101]", "n098 n099 n100 n101"),
        ("r[1-2]n[5,7].site", "r1n5.site r1n7.site r2n5.site r2n7.site"),
        ("", ""),
        ("c[1-", ""),
        ("c[a-b]", ""),
        ("(null)", ""),
    ],
)
def test_a_list_of_nodes_as_slurm_writes_it(text: str, names: str) -> None:
    assert allocation.hostnames(text) == names.split()


def test_our_own_node_is_the_first() -> None:
    nodes = {"SLURM_JOB_NUM_NODES": "3", "SLURM_JOB_NODELIST": "c[1-3]", "SLURMD_NODENAME": "c2"}
    assert allocation.confine(NODE, nodes).node_names == ("c2", "c1", "c3")
    assert allocation.confine(NODE, {**nodes, "SLURM_JOB_NODELIST": "c[1-2]"}).node_names == ()
    assert allocation.confine(NODE, {**nodes, "SLURM_STEP_ID": "0"}).node_names == ()
