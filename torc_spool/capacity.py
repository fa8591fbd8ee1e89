"""What the node really gives this process: cpus, memory and gpus, within affinity, cgroups and environment.

Everything is read below ``root``, so that a directory can stand in for the machine. Detection never fails:
what is missing or odd counts as no limit.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

from torc_spool.errors import UsageError
from torc_spool.model import MIB

CUDA = "CUDA_VISIBLE_DEVICES"
ROCR = "ROCR_VISIBLE_DEVICES"
NVIDIA_SMI_TIMEOUT_S = 10.0

_DEVICE = re.compile(r"[0-9]|GPU-|MIG-")
_OCTAL = re.compile(r"\\([0-7]{3})")
_CPU_PERIOD_US = 100_000


class Capacity(NamedTuple):
    """What a runner may hand out on each of its nodes."""

    num_cpus: int
    memory_mib: int
    gpus: tuple[str, ...] = ()  # as they stand in the variable: an index, a GPU or a MIG uuid
    gpu_variable: str | None = None  # the variable by which jobs get theirs; None: no gpus known
    num_nodes: int = 1
    node_names: tuple[str, ...] = ()  # where Slurm says them, our own first; then we start nothing on the others


def detect(
    *,
    root: str = "/",
    environ: Mapping[str, str] = os.environ,
    affinity: Collection[int] | None = None,
    nvidia_smi: Callable[[], str] | None = None,
) -> Capacity:
    """The capacity of this process on this node.

    ``affinity`` (the cpus that it may run on) and ``nvidia_smi`` (gives the indices, one a line) are asked
    of the system when they are not given. Without nvidia-smi this takes about a millisecond.
    """
    cgroups = _Cgroups(root)
    gpu_variable, gpus = _gpus(environ, nvidia_smi)
    return Capacity(
        num_cpus=_num_cpus(_usable_cpus() if affinity is None else len(affinity), cgroups),
        memory_mib=_memory_mib(root, cgroups),
        gpus=gpus,
        gpu_variable=gpu_variable,
    )


def given(
    detected: Capacity | None = None,
    *,
    num_cpus: int | None = None,
    memory_gb: float | None = None,
    num_gpus: int | None = None,
    num_nodes: int | None = None,
) -> Capacity:
    """What was `detected` (else what this node gives), with what a person says in its place. See `override`.

    Raises UsageError also when more gpus are asked for than a variable leaves visible.
    """
    detected = detect() if detected is None else detected
    variable, shown = detected.gpu_variable, len(detected.gpus)
    if variable is not None and variable in os.environ and shown and num_gpus is not None and num_gpus > shown:
        raise UsageError(
            f"{variable}={os.environ[variable]} shows {shown} GPU{'s' if shown > 1 else ''}, "
            f"--num-gpus asks for {num_gpus}; unset it or ask for at most {shown}"
        )
    return override(detected, num_cpus=num_cpus, memory_gb=memory_gb, num_gpus=num_gpus, num_nodes=num_nodes)


def override(
    capacity: Capacity,
    *,
    num_cpus: int | None = None,
    memory_gb: float | None = None,
    num_gpus: int | None = None,
    num_nodes: int | None = None,
) -> Capacity:
    """``capacity`` with what a person says in place of what was detected; ``memory_gb`` is in GiB.

    Fewer gpus than detected: the first ones. More: the indices 0 to n-1, because the person knows better.
    """
    _require(num_cpus is None or num_cpus >= 1, "the number of cpus", num_cpus, "at least 1")
    _require(num_gpus is None or num_gpus >= 0, "the number of gpus", num_gpus, "at least 0")
    _require(num_nodes is None or num_nodes >= 1, "the number of nodes", num_nodes, "at least 1")
    _require(
        memory_gb is None or (math.isfinite(memory_gb) and memory_gb > 0),
        "the memory in GiB",
        memory_gb,
        "a finite number above 0",
    )
    if num_cpus is not None:
        capacity = capacity._replace(num_cpus=num_cpus)
    if memory_gb is not None:
        capacity = capacity._replace(memory_mib=max(1, math.floor(memory_gb * 1024)))
    if num_nodes is not None:
        names = capacity.node_names if 1 < num_nodes <= len(capacity.node_names) else ()
        capacity = capacity._replace(num_nodes=num_nodes, node_names=names[:num_nodes])
    if num_gpus is not None:
        enough = num_gpus <= len(capacity.gpus)
        gpus = capacity.gpus[:num_gpus] if enough else tuple(map(str, range(num_gpus)))
        capacity = capacity._replace(gpus=gpus, gpu_variable=capacity.gpu_variable or CUDA)
    return capacity


def _require(valid: bool, what: str, value: float | None, expected: str) -> None:
    if not valid:
        raise UsageError(f"{what} must be {expected}, not {value}")


# --- cpus and memory


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _num_cpus(usable: int, cgroups: _Cgroups) -> int:
    """Whole cpus; a bandwidth limit is rounded down, but to no less than one. cpusets are in the affinity."""
    limits = [quota // period for quota, period in _cpu_quotas(cgroups)]
    return max(1, min([usable, *limits]))


def _cpu_quotas(cgroups: _Cgroups) -> Iterator[tuple[int, int]]:
    """Every (quota, period) in microseconds that binds this process.

    cpu.max: Documentation/admin-guide/cgroup-v2.rst; cpu.cfs_*_us: Documentation/scheduler/sched-bwc.rst.
    """
    for directory in cgroups.levels_v2():
        words = (*_read(directory, "cpu.max").split(), "", "")
        yield from _quota(words[0], words[1])
    for directory in cgroups.levels_v1("cpu"):
        yield from _quota(_read(directory, "cpu.cfs_quota_us"), _read(directory, "cpu.cfs_period_us"))


def _quota(quota: str, period: str) -> Iterator[tuple[int, int]]:
    limit = _number(quota)
    if limit is not None:
        yield limit, _number(period) or _CPU_PERIOD_US


def _memory_mib(root: str, cgroups: _Cgroups) -> int:
    """MemTotal or the least memory limit, rounded down to whole MiB."""
    limits = [limit for limit in (_mem_total(root), *_memory_limits(cgroups)) if limit is not None]
    return max(1, min(limits, default=_physical_memory()) // MIB)


def _memory_limits(cgroups: _Cgroups) -> Iterator[int | None]:
    """Every memory limit in bytes that binds this process, None for a level without one.

    The v1 kernel says "none" with a number larger than any memory, so that the minimum is right as it is.
    """
    for directory in cgroups.levels_v2():
        yield _number(_read(directory, "memory.max"))
    levels = cgroups.levels_v1("memory")
    for directory in levels:
        yield _number(_read(directory, "memory.limit_in_bytes"))
    for directory in levels[:1]:
        # The kernel's own minimum knows of ancestors that a container's mount does not show.
        yield _keyed_number(_read(directory, "memory.stat"), "hierarchical_memory_limit")


def memory_levels(root: str = "/") -> tuple[list[str], list[str]]:
    """The directories of this process's memory cgroups, of version 2 and of version 1, its own first."""
    cgroups = _Cgroups(root)
    return cgroups.levels_v2(), cgroups.levels_v1("memory")


def _mem_total(root: str) -> int | None:
    """MemTotal of proc_meminfo(5) in bytes; its unit is KiB though it says kB."""
    kib = _keyed_number(_read(root, "proc/meminfo"), "MemTotal:")
    return None if kib is None else kib * 1024


def _physical_memory() -> int:
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return MIB


def _keyed_number(text: str, key: str) -> int | None:
    """The number behind ``key`` in lines of key and value."""
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == key:
            return _number(words[1])
    return None


def _number(text: str) -> int | None:
    """A limit, or None for what means no limit: "max", -1, nothing, 0 (under which nobody could run)."""
    text = text.strip()
    return (int(text) or None) if text.isascii() and text.isdigit() and len(text) < 30 else None


def _read(directory: str, name: str) -> str:
    """The text of a file, empty when it cannot be had."""
    try:
        with open(f"{directory}/{name}", encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except (OSError, ValueError):
        return ""


# --- where this process's cgroups are


class _Mount(NamedTuple):
    """A cgroup filesystem of proc_pid_mountinfo(5): ``top`` is the cgroup that shows at ``point``."""

    version: int
    controllers: frozenset[str]
    top: str
    point: str


class _Cgroups:
    """The directories of this process's own cgroups and of all their ancestors that are mounted here."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._mounts = tuple(_cgroup_mounts(_read(root, "proc/self/mountinfo")))
        self._paths = dict(_cgroup_paths(_read(root, "proc/self/cgroup")))

    def levels_v2(self) -> list[str]:
        """Directories of the unified hierarchy, the process's own first."""
        return self._levels("", [mount for mount in self._mounts if mount.version == 2])

    def levels_v1(self, controller: str) -> list[str]:
        """Directories of the hierarchy that ``controller`` is bound to, the process's own first."""
        return self._levels(controller, [mount for mount in self._mounts if controller in mount.controllers])

    def _levels(self, controller: str, mounts: list[_Mount]) -> list[str]:
        path = self._paths.get(controller)
        if path is None:
            return []
        reached = [(mount, _steps_below(mount.top, path)) for mount in mounts]
        known = [(mount, steps) for mount, steps in reached if steps is not None]
        # A process outside of what is mounted sees the limits of its container, at best, at the mount point.
        guesses: list[tuple[_Mount, list[str]]] = [(mount, []) for mount in mounts]
        return [
            "/".join([self._root.rstrip("/"), mount.point.strip("/"), *steps[:depth]])
            for mount, steps in known or guesses
            for depth in range(len(steps), -1, -1)
        ]


def _steps_below(top: str, path: str) -> list[str] | None:
    """The directories that lead from the mounted cgroup ``top`` to ``path``, None when none do.

    Both may begin with ``..``: what lies outside of the reader's namespace is shown so, cgroup_namespaces(7).
    """
    above, steps = _parts(top), _parts(path)
    below = steps[len(above) :]
    return below if steps[: len(above)] == above and ".." not in below else None


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def _cgroup_paths(text: str) -> Iterator[tuple[str, str]]:
    """(controller, path) of each line of proc_pid_cgroup(5); the unified hierarchy's controller is ""."""
    for line in text.splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if not colon or (not controllers and hierarchy != "0"):
            continue
        for controller in controllers.split(","):
            yield controller, path


def _cgroup_mounts(text: str) -> Iterator[_Mount]:
    for line in text.splitlines():
        head, dash, tail = line.partition(" - ")
        fields, source = head.split(), tail.split()
        if not dash or len(fields) < 5 or len(source) < 3 or source[0] not in ("cgroup", "cgroup2"):
            continue
        version = 2 if source[0] == "cgroup2" else 1
        controllers = frozenset(source[-1].split(",")) if version == 1 else frozenset[str]()
        yield _Mount(version, controllers, _unescape(fields[3]), _unescape(fields[4]))


def _unescape(text: str) -> str:
    """Space, tab, newline and backslash stand as octal numbers in mountinfo."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


# --- gpus


def visible_devices(value: str) -> tuple[str, ...]:
    """The devices that a ``*_VISIBLE_DEVICES`` value makes visible.

    Only those before the first invalid entry are (CUDA C++ programming guide, environment variables); so
    "", "-1" and Slurm's "NoDevFiles" mean none. A repeated device counts once: no two jobs may share it.
    """
    devices: dict[str, None] = {}
    for entry in map(str.strip, value.split(",")):
        if not _DEVICE.match(entry):
            break
        devices[entry] = None
    return tuple(devices)


def _gpus(environ: Mapping[str, str], nvidia_smi: Callable[[], str] | None) -> tuple[str | None, tuple[str, ...]]:
    for variable in (CUDA, ROCR):
        if variable in environ:
            return variable, visible_devices(environ[variable])
    text = nvidia_smi() if nvidia_smi is not None else ask_nvidia_smi(environ.get("PATH", ""))
    indices = tuple(line.strip() for line in text.splitlines() if line.strip().isdigit())
    return (CUDA, indices) if indices else (None, ())


def ask_nvidia_smi(path: str, timeout_s: float = NVIDIA_SMI_TIMEOUT_S) -> str:
    """The indices of the gpus, one a line, from the nvidia-smi on ``path``; empty when that fails."""
    programs = (os.path.join(directory, "nvidia-smi") for directory in path.split(os.pathsep) if directory)
    program = next((each for each in programs if os.access(each, os.X_OK) and os.path.isfile(each)), None)
    if program is None:
        return ""
    import subprocess  # not needed where there is none

    try:
        process = subprocess.Popen(
            [program, "--query-gpu=index", "--format=csv,noheader"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError:
        return ""
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        # kill, but do not wait for long: a lost gpu leaves nvidia-smi where no signal reaches it
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        if process.stdout is not None:
            process.stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        return ""
    return output if process.returncode == 0 else ""
