"""Capacity out of faked trees of /proc and /sys: cgroups, containers, gpus, and what a person says."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from torc_spool import capacity
from torc_spool.capacity import Capacity
from torc_spool.errors import UsageError

GIB = 1024**3
NO_LIMIT_V1 = 9223372036854771712  # what the kernel says where memory.limit_in_bytes was never set
V2 = "30 23 0:26 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1_CPU = "33 31 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
V1_MEMORY = "34 31 0:30 {top} /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory"
UNIFIED = "35 31 0:31 {top} /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"


class Node:
    """A machine made of files: 16 cpus in the affinity, 64 GiB of memory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/meminfo", f"MemTotal:       {64 * 1024 * 1024} kB\nMemFree:   1 kB\n")

    def write(self, path: str, text: str | int) -> Node:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
        return self

    def cgroups(self, paths: str, *mounts: str, top: str = "/") -> Node:
        self.write("proc/self/cgroup", paths)
        return self.write("proc/self/mountinfo", "\n".join(mount.format(top=top) for mount in mounts))

    def detect(self, **environ: str) -> Capacity:
        return capacity.detect(root=str(self.root), environ=environ, affinity=range(16), nvidia_smi=lambda: "")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


# --- cpus and memory


def test_without_limits_it_is_the_affinity_and_all_memory(node: Node) -> None:
    assert node.detect() == Capacity(16, 64 * 1024, (), None, 1)


@pytest.mark.parametrize(
    ("cpu_max", "cpus"),
    [
        ("max 100000", 16),
        ("400000 100000", 4),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("3200000 100000", 16),
        ("20000 10000", 2),
        ("300000", 3),
        ("", 16),
        ("nonsense here", 16),
        ("-1 100000", 16),
        ("400000 0", 4),
    ],
)
def test_v2_bandwidth_is_whole_cpus_and_at_least_one(node: Node, cpu_max: str, cpus: int) -> None:
    node.cgroups("0::/job", V2).write("sys/fs/cgroup/job/cpu.max", cpu_max)
    assert node.detect().num_cpus == cpus


def test_v2_least_limit_of_all_ancestors_binds(node: Node) -> None:
    node.cgroups("0::/slurm/job_7/step_0", V2)
    node.write("sys/fs/cgroup/slurm/cpu.max", "1200000 100000")
    node.write("sys/fs/cgroup/slurm/job_7/cpu.max", "600000 100000")
    node.write("sys/fs/cgroup/slurm/job_7/step_0/cpu.max", "max 100000")
    node.write("sys/fs/cgroup/slurm/memory.max", 8 * GIB)
    node.write("sys/fs/cgroup/slurm/job_7/memory.max", 12 * GIB)
    node.write("sys/fs/cgroup/slurm/job_7/step_0/memory.max", "max")
    assert node.detect()[:2] == (6, 8 * 1024)


def test_v2_sibling_limits_do_not_bind(node: Node) -> None:
    node.cgroups("0::/mine", V2).write("sys/fs/cgroup/other/memory.max", GIB)
    assert node.detect().memory_mib == 64 * 1024


def test_v1_quota_and_limit_of_all_ancestors(node: Node) -> None:
    node.cgroups("5:memory:/slurm/job_7\n4:cpu,cpuacct:/slurm/job_7\n1:name=systemd:/", V1_CPU, V1_MEMORY)
    node.write("sys/fs/cgroup/cpu,cpuacct/slurm/job_7/cpu.cfs_quota_us", -1)
    node.write("sys/fs/cgroup/cpu,cpuacct/slurm/job_7/cpu.cfs_period_us", 100000)
    node.write("sys/fs/cgroup/cpu,cpuacct/slurm/cpu.cfs_quota_us", 175000)
    node.write("sys/fs/cgroup/cpu,cpuacct/slurm/cpu.cfs_period_us", 50000)
    node.write("sys/fs/cgroup/memory/slurm/job_7/memory.limit_in_bytes", NO_LIMIT_V1)
    node.write("sys/fs/cgroup/memory/slurm/memory.limit_in_bytes", 5 * GIB + 1)
    assert node.detect()[:2] == (3, 5 * 1024)


def test_v1_without_limits(node: Node) -> None:
    node.cgroups("5:memory:/\n4:cpu,cpuacct:/", V1_CPU, V1_MEMORY)
    node.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", -1)
    node.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", 100000)
    node.write("sys/fs/cgroup/memory/memory.limit_in_bytes", NO_LIMIT_V1)
    assert node.detect()[:2] == (16, 64 * 1024)


def test_v1_limit_of_an_ancestor_that_is_not_mounted(node: Node) -> None:
    node.cgroups("5:memory:/pod/box", V1_MEMORY, top="/pod/box")
    node.write("sys/fs/cgroup/memory/memory.limit_in_bytes", NO_LIMIT_V1)
    node.write("sys/fs/cgroup/memory/memory.stat", f"cache 0\nhierarchical_memory_limit {3 * GIB}\nrss 5")
    assert node.detect().memory_mib == 3 * 1024


def test_hybrid_takes_each_controller_from_where_it_is_bound(node: Node) -> None:
    node.cgroups("5:memory:/a\n4:cpu,cpuacct:/b\n0::/c", V1_CPU, V1_MEMORY, UNIFIED)
    node.write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", 2 * GIB)
    node.write("sys/fs/cgroup/memory/b/memory.limit_in_bytes", GIB)
    node.write("sys/fs/cgroup/unified/c/cpu.max", "200000 100000")
    node.write("sys/fs/cgroup/unified/a/cpu.max", "100000 100000")
    assert node.detect()[:2] == (2, 2 * 1024)


@pytest.mark.parametrize(
    ("path", "top", "limited"),
    [
        ("/", "/", ""),  # a cgroup namespace
        ("/docker/0af3", "/docker/0af3", ""),  # no namespace, the container's cgroup is bound to the mount
        ("/docker/0af3/inner", "/docker/0af3", "inner"),
        ("/docker/0af3", "/", ""),  # the host's path, but the mount shows only the container
        ("/system.slice/box", "/docker/0af3", ""),  # not below what is mounted
        ("/docker/0af33", "/docker/0af3", ""),  # a name that only begins like it
        ("/../other", "/", ""),  # outside of the reader's namespace
        ("/../../..", "/", ""),
        ("/", "/..", ""),  # the mount shows the parent of the namespace
        ("/../other/x", "/..", "other/x"),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_container_limits_are_found(node: Node, version: int, path: str, top: str, limited: str) -> None:
    if version == 1:
        node.cgroups(f"5:memory:{path}", V1_MEMORY, top=top)
        node.write(f"sys/fs/cgroup/memory/{limited}/memory.limit_in_bytes", 2 * GIB)
    else:
        node.cgroups(f"0::{path}", V2, top=top)
        node.write(f"sys/fs/cgroup/{limited}/memory.max", 2 * GIB)
    assert node.detect().memory_mib == 2 * 1024


def test_of_two_mounts_the_one_that_shows_this_cgroup_counts(node: Node) -> None:
    stray = "40 31 0:26 /elsewhere /mnt/stray rw - cgroup2 cgroup2 rw"
    node.cgroups("0::/mine", stray, V2).write("mnt/stray/memory.max", GIB)
    node.write("sys/fs/cgroup/mine/memory.max", 2 * GIB)
    assert node.detect().memory_mib == 2 * 1024


def test_mount_point_with_a_space(node: Node) -> None:
    node.cgroups("0::/mine", r"40 31 0:26 / /mnt/my\040groups rw - cgroup2 cgroup2 rw")
    node.write("mnt/my groups/mine/memory.max", 2 * GIB)
    assert node.detect().memory_mib == 2 * 1024


@pytest.mark.parametrize("text", ["", "garbage", "a:b", "0::", "::", "\x00", "1:2:3:4\n- - -", "x - cgroup2"])
def test_odd_files_are_no_limit(node: Node, text: str) -> None:
    node.write("proc/self/cgroup", text).write("proc/self/mountinfo", text)
    assert node.detect()[:2] == (16, 64 * 1024)


def test_nothing_to_read_falls_back_to_the_system(tmp_path: Path) -> None:
    found = capacity.detect(root=str(tmp_path / "absent"), environ={}, affinity=())
    assert found.num_cpus == 1
    assert found.memory_mib >= 1


def test_unreadable_bytes_are_no_limit(node: Node) -> None:
    node.cgroups("0::/mine", V2).write("sys/fs/cgroup/mine/memory.max", "")
    (node.root / "sys/fs/cgroup/mine/memory.max").write_bytes(b"\xff\xfe1\n")
    assert node.detect().memory_mib == 64 * 1024
    (node.root / "sys/fs/cgroup/mine/cpu.max").mkdir()
    assert node.detect().num_cpus == 16


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = capacity.detect(nvidia_smi=lambda: "")
    assert 1 <= found.num_cpus <= len(os.sched_getaffinity(0))
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1024**2
    assert 1 <= found.memory_mib <= physical


def test_affinity_of_this_process_is_respected() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert capacity.detect(environ={"CUDA_VISIBLE_DEVICES": ""}).num_cpus == 1
    finally:
        os.sched_setaffinity(0, before)


# --- gpus


@pytest.mark.parametrize(
    ("value", "devices"),
    [
        ("", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
        ("none", ()),
        ("0", ("0",)),
        ("3,1", ("3", "1")),
        (" 0 , 2 ", ("0", "2")),
        ("0,-1,2", ("0",)),
        ("0,,2", ("0",)),
        ("0,1,", ("0", "1")),
        ("1,1,0", ("1", "0")),
        (
            "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6,GPU-1",
            ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "GPU-1"),
        ),
        ("MIG-GPU-8932f937/1/0,MIG-af31", ("MIG-GPU-8932f937/1/0", "MIG-af31")),
    ],
)
def test_visible_devices_as_cuda_reads_them(value: str, devices: tuple[str, ...]) -> None:
    assert capacity.visible_devices(value) == devices


@pytest.mark.parametrize(
    ("environ", "variable", "gpus"),
    [
        ({"CUDA_VISIBLE_DEVICES": "2,3"}, "CUDA_VISIBLE_DEVICES", ("2", "3")),
        ({"ROCR_VISIBLE_DEVICES": "0,1"}, "ROCR_VISIBLE_DEVICES", ("0", "1")),
        ({"CUDA_VISIBLE_DEVICES": "5", "ROCR_VISIBLE_DEVICES": "0,1"}, "CUDA_VISIBLE_DEVICES", ("5",)),
        ({"CUDA_VISIBLE_DEVICES": "", "ROCR_VISIBLE_DEVICES": "0,1"}, "CUDA_VISIBLE_DEVICES", ()),
        ({"ROCR_VISIBLE_DEVICES": "-1"}, "ROCR_VISIBLE_DEVICES", ()),
        ({}, "CUDA_VISIBLE_DEVICES", ("0", "1", "2", "3")),
    ],
)
def test_gpus_by_variable_before_nvidia_smi(
    node: Node, environ: dict[str, str], variable: str, gpus: tuple[str, ...]
) -> None:
    found = capacity.detect(root=str(node.root), environ=environ, nvidia_smi=lambda: "0\n1\n2\n3\n")
    assert (found.gpu_variable, found.gpus) == (variable, gpus)


Smi = Callable[[str], str]


@pytest.fixture
def smi(tmp_path: Path) -> Smi:
    """Puts an nvidia-smi with this shell text on a path of its own; gives that path."""

    def put(text: str) -> str:
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        # Written by a child, so that no process forked here meanwhile holds it open: "text file busy".
        subprocess.run(["/bin/sh", "-c", 'cat > "$0" && chmod +x "$0"', program], input=text.encode(), check=True)
        return str(program.parent)

    return put


def test_nvidia_smi_on_the_path_is_asked(node: Node, smi: Smi) -> None:
    asked = "#!/bin/sh\n[ \"$*\" = '--query-gpu=index --format=csv,noheader' ] && echo 0 && echo 1\n"
    found = capacity.detect(root=str(node.root), environ={"PATH": smi(asked)})
    assert (found.gpu_variable, found.gpus) == ("CUDA_VISIBLE_DEVICES", ("0", "1"))


@pytest.mark.parametrize(
    "text",
    [
        "#!/bin/sh\necho 0\nexit 9\n",
        "#!/bin/sh\necho No devices were found\n",
        "#!/absent/sh\n",
        "#!/bin/sh\n",
    ],
    ids=["fails", "no devices", "cannot start", "silent"],
)
def test_nvidia_smi_that_fails_means_no_gpus(node: Node, smi: Smi, text: str) -> None:
    found = capacity.detect(root=str(node.root), environ={"PATH": smi(text)})
    assert (found.gpu_variable, found.gpus) == (None, ())


def test_nvidia_smi_that_hangs_is_given_up(smi: Smi) -> None:
    before = time.monotonic()
    assert capacity.ask_nvidia_smi(smi("#!/bin/sh\necho 0\n/bin/sleep 60\n"), timeout_s=0.2) == ""
    assert time.monotonic() - before < 5


def test_no_path_no_nvidia_smi(node: Node) -> None:
    assert capacity.detect(root=str(node.root), environ={}).gpus == ()


# --- what a person says

DETECTED = Capacity(8, 16384, ("GPU-a", "GPU-b"), "ROCR_VISIBLE_DEVICES")


def test_override_of_nothing_changes_nothing() -> None:
    assert capacity.override(DETECTED) is DETECTED


def test_override_of_each_part() -> None:
    found = capacity.override(DETECTED, num_cpus=32, memory_gb=1.5, num_nodes=4)
    assert found == Capacity(32, 1536, ("GPU-a", "GPU-b"), "ROCR_VISIBLE_DEVICES", 4)


@pytest.mark.parametrize(("memory_gb", "mib"), [(0.5, 512), (1, 1024), (0.1, 102), (0.0001, 1), (240.7, 246476)])
def test_memory_in_gib_with_fractions(memory_gb: float, mib: int) -> None:
    assert capacity.override(DETECTED, memory_gb=memory_gb).memory_mib == mib


@pytest.mark.parametrize(
    ("num_gpus", "gpus"),
    [(0, ()), (1, ("GPU-a",)), (2, ("GPU-a", "GPU-b")), (3, ("0", "1", "2"))],
)
def test_gpus_are_the_first_of_the_visible_else_indices(num_gpus: int, gpus: tuple[str, ...]) -> None:
    found = capacity.override(DETECTED, num_gpus=num_gpus)
    assert (found.gpus, found.gpu_variable) == (gpus, "ROCR_VISIBLE_DEVICES")


def test_gpus_of_a_person_on_a_node_without_any() -> None:
    found = capacity.override(Capacity(8, 16384), num_gpus=2)
    assert (found.gpus, found.gpu_variable) == (("0", "1"), "CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"num_cpus": 0}, "the number of cpus must be at least 1, not 0"),
        ({"num_nodes": 0}, "the number of nodes must be at least 1, not 0"),
        ({"num_gpus": -1}, "the number of gpus must be at least 0, not -1"),
        ({"memory_gb": 0.0}, "the memory in GiB must be a finite number above 0, not 0.0"),
        ({"memory_gb": float("nan")}, "the memory in GiB must be a finite number above 0, not nan"),
        ({"memory_gb": float("inf")}, "the memory in GiB must be a finite number above 0, not inf"),
    ],
)
def test_absurd_overrides_are_refused(parts: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}$"):
        capacity.override(DETECTED, **parts)
