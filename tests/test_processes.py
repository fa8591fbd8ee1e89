"""Facts about processes, and the end of process trees, with real processes that fork, orphan and hide."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from torc_spool import processes

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs proc(5)")

MARK = "TORC_SPOOL_TEST_MARK"
PACKAGE_ROOT = str(Path(processes.__file__).resolve().parents[1])
MIB = 1024 * 1024


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 8.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.005)


class Job:
    """Processes that share a mark. Each of ``starts`` is the leader of its own process group."""

    def __init__(self) -> None:
        self.value = uuid.uuid4().hex
        self.starts: list[subprocess.Popen[str]] = []

    def start(self, *command: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command,
            env={**os.environ, MARK: self.value, "PYTHONPATH": PACKAGE_ROOT},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        self.starts.append(process)
        return process

    def shell(self, script: str) -> subprocess.Popen[str]:
        return self.start("/bin/sh", "-c", script)

    def python(self, script: str) -> subprocess.Popen[str]:
        return self.start(sys.executable, "-S", "-c", script)

    def find(self) -> list[int]:
        return processes.find_marked(MARK, self.value)

    def kill(self) -> int:
        return processes.kill_marked(MARK, self.value)

    def left(self) -> list[psutil.Process]:
        """Every live process with the mark, as psutil sees it."""
        return [process for process in psutil.process_iter() if self._is_left(process)]

    def _is_left(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error, OSError):
            return bool(process.environ().get(MARK) == self.value)
        return False

    def end(self) -> bool:
        """Kill what is left; true when a look found nothing to kill."""
        left = self.left()
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return not left


@pytest.fixture
def job() -> Iterator[Job]:
    started = Job()
    yield started
    wait_until(started.end, "all processes of the test are gone")
    for child in started.starts:
        child.kill()
        child.wait(timeout=5)
        if child.stdout is not None:
            child.stdout.close()
    wait_until(started.end, "all processes of the test are gone")


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def read_pid(process: subprocess.Popen[str]) -> int:
    return int(read_line(process))


def gone(pid: int) -> bool:
    return processes.start_time(pid) is None


# --- this host and this process


@pytest.mark.parametrize(
    ("hostname", "name"),
    [
        ("nid001234", "nid001234"),
        ("login1.cluster.example.org", "login1"),
        ("Node_7-a", "Node_7-a"),
        ("odd name/../x", "odd-name"),
        ("", "localhost"),
        (".", "localhost"),
        ("ä", "localhost"),
        ("x" * 200, "x" * 64),
    ],
)
def test_host_name_is_short_and_safe(monkeypatch: pytest.MonkeyPatch, hostname: str, name: str) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: hostname)
    assert processes.host_name() == name


def test_boot_and_pid_namespace_are_known_and_stay() -> None:
    assert uuid.UUID(processes.boot_id())
    assert processes.pid_namespace().startswith("pid:[")


def test_subreaper_becomes_the_parent_of_orphans(job: Job) -> None:
    script = (
        "import os, subprocess; from torc_spool import children\n"
        "assert children.set_subreaper()\n"
        "orphan = int(subprocess.check_output(['/bin/sh', '-c', 'sleep 60 >/dev/null & echo $!']))\n"
        "print(os.getpid(), open(f'/proc/{orphan}/stat').read().rpartition(')')[2].split()[1], flush=True)"
    )
    own, parent = read_line(job.python(script)).split()
    assert own == parent


def test_descriptors_are_not_inherited(job: Job) -> None:
    script = (
        "import os; from torc_spool import children\n"
        "fds = [os.dup(1), os.open('/', os.O_PATH), os.pipe()[0]]\n"
        "[os.set_inheritable(fd, True) for fd in fds]\n"
        "children.close_on_exec_from(fds[0] + 1)\n"
        "print([os.get_inheritable(fd) for fd in (1, *fds)], flush=True)"
    )
    assert read_line(job.python(script)) == "[True, True, False, False]"


# --- one process


def test_start_time_tells_a_process_from_the_next_with_its_pid(job: Job) -> None:
    pid = job.shell("echo up; sleep 60").pid
    start = processes.start_time(pid)
    assert start is not None
    assert start.isdigit()
    assert processes.is_same_process(pid, start)
    assert not processes.is_same_process(pid, str(int(start) - 1))


def test_start_time_is_the_kernels_start_since_boot() -> None:
    ticks = processes.start_time(os.getpid())
    assert ticks is not None
    started = int(ticks) / os.sysconf("SC_CLK_TCK") + psutil.boot_time()
    assert abs(started - psutil.Process().create_time()) < 2


def test_no_process_has_no_start_time(job: Job) -> None:
    child = job.shell("exit 0")
    child.wait()
    assert processes.start_time(child.pid) is None
    assert not processes.is_same_process(child.pid, "1")


def test_zombie_counts_as_gone(job: Job) -> None:
    child = job.shell("read line < /proc/self/stat; echo $line")
    start = read_line(child).rpartition(")")[2].split()[19]
    wait_until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE, "it is a zombie")
    assert processes.start_time(child.pid) is None
    assert not processes.is_same_process(child.pid, start)


def test_first_thread_that_ended_before_the_others_is_no_dead_process(job: Job) -> None:
    script = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "print('up', flush=True)\n"
        "ctypes.CDLL(None).pthread_exit(None)"
    )
    child = job.python(script)
    assert read_line(child) == "up"
    wait_until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE, "its leader has ended")
    assert processes.start_time(child.pid) is not None


def test_command_name_with_parentheses_does_not_confuse(job: Job) -> None:
    script = "import time; open('/proc/self/comm', 'w').write('a) Z 1 (2 3')\nprint('up', flush=True); time.sleep(60)"
    child = job.python(script)
    assert read_line(child) == "up"
    start = processes.start_time(child.pid)
    assert start is not None
    assert abs(int(start) - int(processes.start_time(os.getpid()) or 0)) < 10**7
    assert processes.usage([child.pid])[child.pid].pids == (child.pid,)


def test_process_that_may_not_be_seen_counts_as_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(path: str) -> bytes:
        raise FileNotFoundError(path)

    def forbidden(path: str) -> bytes:
        raise PermissionError(path)

    def not_ours(pid: int, number: int) -> None:
        raise PermissionError(pid)

    monkeypatch.setattr(os, "kill", not_ours)
    for read in (hidden, forbidden):
        monkeypatch.setattr(processes, "_read", read)
        assert processes.start_time(1) is None
        assert processes.is_same_process(1, "1")


def test_start_time_that_was_unknown_matches_a_live_process() -> None:
    assert processes.is_same_process(os.getpid(), "")


def test_look_without_descriptors_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(path: str) -> bytes:
        raise OSError(24, "Too many open files", path)

    monkeypatch.setattr(processes, "_read", exhausted)
    with pytest.raises(OSError, match="Too many"):
        processes.is_same_process(os.getpid(), "1")
    with pytest.raises(OSError, match="Too many"):
        processes.find_marked(MARK, "any")


def test_proc_of_another_pid_namespace_is_not_believed(monkeypatch: pytest.MonkeyPatch, job: Job) -> None:
    pid = job.shell("sleep 60").pid
    monkeypatch.setattr(processes, "_proc_is_ours", lambda: False)
    assert job.find() == []
    assert processes.start_time(pid) is None
    assert processes.is_same_process(pid, "1")
    assert processes.usage([pid])[pid].pids == ()


# --- processes by a mark in their environment


def test_marked_processes_are_found_wherever_they_went(job: Job) -> None:
    child = job.shell("sleep 60 & setsid sleep 61 & (setsid sleep 62 &) ; echo up; wait")
    assert read_line(child) == "up"
    wait_until(lambda: len(job.find()) == 4, "the shell and three sleeps")
    assert child.pid in job.find()


@pytest.mark.parametrize("variable", [MARK, MARK[1:], "X" + MARK])
@pytest.mark.parametrize("cut", [slice(None, -1), slice(1, None)])
def test_only_the_exact_entry_is_a_mark(job: Job, variable: str, cut: slice) -> None:
    child = job.shell("echo up; sleep 60")
    assert read_line(child) == "up"
    assert job.find()
    assert processes.find_marked(variable, job.value[cut]) == []


def test_environment_that_is_empty_in_the_middle_of_an_exec_is_read_again(
    monkeypatch: pytest.MonkeyPatch, job: Job
) -> None:
    child = job.shell("echo up; sleep 60")
    assert read_line(child) == "up"
    read, empty = processes._read, [b""] * 3

    def late(path: str) -> bytes:
        return empty.pop() if path == f"/proc/{child.pid}/environ" and empty else read(path)

    monkeypatch.setattr(processes, "_read", late)
    assert child.pid in job.find()


def test_truly_empty_environment_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, job: Job) -> None:
    child = job.shell("exec env -i /bin/sh -c 'echo up; read line'")
    assert read_line(child) == "up"
    with monkeypatch.context() as patched:  # the fixture's own end may have to wait
        patched.setattr("time.sleep", pytest.fail)
        assert not processes._holds(child.pid, [b"any=value"])


def test_we_are_never_among_the_marked(job: Job) -> None:
    script = (
        "import os; from torc_spool import processes\n"
        f"value = os.environ['{MARK}']\n"
        f"print(processes.find_marked('{MARK}', value), processes.kill_marked('{MARK}', value), flush=True)"
    )
    assert read_line(job.python(script)) == "[] 0"


def test_kill_marked_ends_all_and_counts_them(job: Job) -> None:
    child = job.shell("trap '' TERM; setsid sleep 60 & (setsid sleep 61 &); echo up; wait")
    assert read_line(child) == "up"
    wait_until(lambda: len(job.find()) == 3, "the shell and two sleeps")
    assert job.kill() == 3
    assert job.find() == []
    assert job.left() == []
    assert job.kill() == 0


@pytest.mark.parametrize(
    ("environment", "is_ended"),
    [
        ("TORC_ALLOCATION=5 SLURM_JOB_ID=5", True),
        ("TORC_ALLOCATION=5", True),
        ("SLURM_JOB_ID=5", True),
        ("TORC_ALLOCATION=5 SLURM_JOB_ID=6", False),
        ("TORC_ALLOCATION= SLURM_JOB_ID=6", False),
    ],
)
def test_kill_marked_spares_what_a_job_has_sent_to_slurm(environment: str, is_ended: bool, job: Job) -> None:
    child = job.shell(f"exec env -u SLURM_JOB_ID {environment} /bin/sh -c 'echo up; exec sleep 60'")
    assert read_line(child) == "up"
    wait_until(lambda: b"sleep" in Path(f"/proc/{child.pid}/cmdline").read_bytes(), "its last program")
    assert job.kill() == is_ended
    assert (child.poll() is None) != is_ended


def test_kill_marked_ends_children_that_cleared_their_environment(job: Job) -> None:
    child = job.shell("env -i setsid /bin/sh -c 'echo $$; sleep 60' & wait")
    cleared = read_pid(child)
    wait_until(lambda: cleared not in job.find(), "its environment is clear")
    assert job.kill() >= 2
    assert gone(cleared)


def test_kill_marked_spares_our_own_children(job: Job) -> None:
    script = (
        "import os, subprocess; from torc_spool import processes\n"
        f"value = os.environ.pop('{MARK}')\n"
        "child = subprocess.Popen(['/bin/sleep', '60'], stdout=subprocess.DEVNULL)\n"
        f"processes.kill_marked('{MARK}', value)\n"
        "print(child.poll(), flush=True)\n"
        "child.kill()"
    )
    child = job.python(script)
    assert read_line(child) == "None"


def test_kill_marked_catches_those_that_fork_meanwhile(job: Job) -> None:
    script = (
        "import os, time\n"
        "print('up', flush=True)\n"
        "for _ in range(300):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        time.sleep(60)\n"
        "        os._exit(0)\n"
        "time.sleep(60)"
    )
    child = job.python(script)
    assert read_line(child) == "up"
    assert job.kill() >= 1
    assert job.left() == []


def test_kill_marked_ends_stopped_processes(job: Job) -> None:
    child = job.shell("echo up; kill -STOP $$")
    assert read_line(child) == "up"
    wait_until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_STOPPED, "it is stopped")
    assert job.kill() == 1


def test_kill_marked_gives_up_on_what_does_not_die(monkeypatch: pytest.MonkeyPatch, job: Job) -> None:
    child = job.shell("echo up; sleep 60 & wait")
    assert read_line(child) == "up"
    monkeypatch.setattr(processes, "_signal", lambda pid, start, number: True)
    assert processes.kill_marked(MARK, job.value, timeout_s=0.1) == 0
    assert child.pid in job.find()


def test_signal_goes_to_no_successor_of_the_pid(job: Job) -> None:
    child = job.shell("echo up; sleep 60")
    assert read_line(child) == "up"
    start = processes.start_time(child.pid)
    assert start is not None
    assert not processes._signal(child.pid, str(int(start) + 1), signal.SIGKILL)
    assert processes.is_same_process(child.pid, start)


def test_signal_without_pidfd(monkeypatch: pytest.MonkeyPatch, job: Job) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    child = job.shell("echo up; sleep 60")
    assert read_line(child) == "up"
    assert job.kill() >= 1
    assert gone(child.pid)


# --- process trees


def test_kill_tree_reaches_group_session_and_orphans(job: Job) -> None:
    child = job.shell("sleep 60 & setsid sleep 61 & (setsid sleep 62 &); env -i setsid sleep 63 & echo up; wait")
    assert read_line(child) == "up"
    wait_until(lambda: len(processes.usage([child.pid])[child.pid].pids) == 4, "all but the orphan")
    wait_until(lambda: len(job.find()) == 4, "all but the one that cleared its environment")
    members = {*processes.usage([child.pid])[child.pid].pids, *job.find()}
    assert len(members) == 5
    assert processes.kill_tree(child.pid, (MARK, job.value), signal.SIGTERM)
    wait_until(lambda: all(map(gone, members)), "all five have ended by SIGTERM")


def test_kill_tree_without_a_mark_is_the_group_alone(job: Job) -> None:
    child = job.shell("sleep 60 & setsid /bin/sh -c 'echo $$; exec sleep 61' & wait")
    escaped = read_pid(child)
    assert processes.kill_tree(child.pid, None, signal.SIGKILL)
    wait_until(lambda: gone(child.pid), "the group is gone")
    assert not gone(escaped)


def test_kill_tree_of_nobody(job: Job) -> None:
    child = job.shell("exit 0")
    child.wait()
    assert not processes.kill_tree(child.pid, (MARK, job.value), signal.SIGKILL)


@pytest.mark.parametrize("pgid", [-1, 0, 1, os.getpgrp()])
def test_kill_tree_refuses_everybody_and_our_own_group(pgid: int) -> None:
    with pytest.raises(ValueError, match="not a job's"):
        processes.kill_tree(pgid, None, signal.SIGKILL)


HOLD = (
    "import os, time; held = bytearray(b'x') * ({mib} << 20)\n"
    "os.write(1, b'%d\\n' % os.getpid())  # one call: several write to one pipe\n"
    "time.sleep(60)"
)


def test_usage_is_the_whole_tree_of_each_root(job: Job) -> None:
    hold = HOLD.format(mib=40)
    run = f'{shlex.quote(sys.executable)} -S -c "$1"'
    script = f"({run}) & (setsid {run}) & (({run}) &) ; wait; sleep 60"
    both = [job.start("/bin/sh", "-c", script, "sh", hold) for _ in range(2)]
    holders = [[read_pid(process) for _ in range(3)] for process in both]
    found = processes.usage([process.pid for process in both])
    for process, pids in zip(both, holders, strict=True):
        assert {process.pid, *pids} <= set(found[process.pid].pids)
        assert found[process.pid].rss_bytes >= 3 * 40 * MIB
        assert found[process.pid].rss_bytes < 6 * 40 * MIB
    assert not set(found[both[0].pid].pids) & set(found[both[1].pid].pids)


def test_usage_of_a_group_whose_leader_is_gone(job: Job) -> None:
    child = job.shell("sleep 60 & echo $!")
    orphan = read_pid(child)
    child.wait()
    assert processes.usage([child.pid])[child.pid].pids == (orphan,)


def test_usage_of_nothing() -> None:
    assert processes.usage([]) == {}
    assert processes.usage([2**22 + 1]) == {2**22 + 1: processes.Usage(0, ())}


def test_ring_of_parents_ends() -> None:
    first, second = (processes._Stat(pid, b"S", parent, pid, pid, 1, "1", 1) for pid, parent in ((10, 11), (11, 10)))
    assert processes._trees([first, second], [12]) == {12: []}


SHARE = (
    "import mmap, os, time\n"
    "shared = mmap.mmap(-1, 48 << 20)\n"
    "shared.write(b'x' * (48 << 20))\n"
    "if os.fork() == 0:\n"
    "    shared.seek(0); shared.read()\n"
    "    print('up', flush=True)\n"
    "time.sleep(60)"
)


def test_pss_counts_shared_pages_once(job: Job) -> None:
    child = job.python(SHARE)
    assert read_line(child) == "up"
    found = processes.usage([child.pid])[child.pid]
    assert found.rss_bytes > 2 * 48 * MIB
    assert 48 * MIB < processes.pss_bytes(found.pids) < 2 * 48 * MIB


def test_pss_falls_back_to_the_resident_set(monkeypatch: pytest.MonkeyPatch, job: Job) -> None:
    child = job.python(HOLD.format(mib=30))
    assert read_pid(child) == child.pid
    read = processes._read

    def without_rollup(path: str) -> bytes:
        if path.endswith("smaps_rollup"):
            raise PermissionError(path)
        return read(path)

    monkeypatch.setattr(processes, "_read", without_rollup)
    assert 30 * MIB < processes.pss_bytes([child.pid]) < 60 * MIB


def test_pss_of_the_gone_is_nothing(job: Job) -> None:
    child = job.shell("exit 0")
    child.wait()
    assert processes.pss_bytes([child.pid]) == 0
