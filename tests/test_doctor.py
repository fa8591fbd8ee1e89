"""The doctor: verdicts from findings, and probes for real with several processes, on filesystems good and bad."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cliutil
import pytest
from cliutil import Lab

from torc_spool import doctor, fsops, lease, mounts, naming, probes
from torc_spool import runner as runners
from torc_spool.capacity import Capacity
from torc_spool.doctor import Findings, judge
from torc_spool.errors import NotFound, StorageError, UsageError
from torc_spool.options import Options
from torc_spool.runner import Runner
from torc_spool.spool import Spool

lab = cliutil.lab

FINE = Findings(
    filesystem="ext4",
    network=False,
    hosts=("node1", "node1", "node1"),
    races=100,
    rename_wrong=0,
    mkdir_wrong=0,
    create_wrong=0,
    torn=0,
    rmdir_keeps=True,
    links=True,
    lock_excludes=True,
    events=True,
    listing_late_s=0.001,
    clock_skew_s=0.0,
    executable=True,
    create_per_s=5000.0,
    rename_per_s=5000.0,
    list_s=0.0001,
    bytes_free=1 << 40,
    inodes_free=10**7,
)
NFS = FINE._replace(filesystem="nfs4", network=True, hosts=("node1", "node2"), events=False)


# -- the verdict -------------------------------------------------------------------------------------------


def test_where_everything_holds_the_verdict_is_good() -> None:
    verdict = judge(FINE)
    assert (verdict.word, verdict.broken, verdict.notes) == ("good", [], [])
    assert verdict.settings == (60.0, True, 240.0, 2000.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rename_wrong": 1}, "rename: 1 of 100 races"),
        ({"mkdir_wrong": 2}, "mkdir: 2 of 100 races"),
        ({"create_wrong": 3}, "O_EXCL: 3 of 100 races"),
        ({"torn": 4}, "4 readers saw neither"),
        ({"rmdir_keeps": False}, "could not be fenced"),
        ({"listing_late_s": None}, "was never seen"),
        ({"listing_late_s": 61.0}, "was seen after 61.0 s"),
        ({"bytes_free": 0}, "is full"),
        ({"inodes_free": 0}, "is full"),
    ],
)
def test_each_law_that_does_not_hold_forbids_a_spool(change: dict[str, Any], said: str) -> None:
    verdict = judge(FINE._replace(**change))
    assert verdict.word == "do not"
    assert not verdict.ok
    (line,) = verdict.broken
    assert said in line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"links": False}, "no hard links"),
        ({"lock_excludes": None}, "there are no locks"),
        ({"lock_excludes": False}, "flock excludes nobody here"),
        ({"events": False}, "file events do not arrive here: an idle runner looks every 15 s"),
        ({"listing_late_s": 5.0}, "5.0 s late"),
        ({"clock_skew_s": -90.0}, "90 s off"),
        ({"executable": False}, "noexec"),
        ({"rename_per_s": 9.0}, "9 calls a second"),
        ({"bytes_free": 5 << 20}, "little space is left: 5 MiB"),
        ({"inodes_free": 7}, "few inodes are left: 7"),
        ({"network": True}, "only one node has looked"),
    ],
)
def test_what_costs_only_speed_or_care_is_noted(change: dict[str, Any], said: str) -> None:
    verdict = judge(FINE._replace(**change))
    assert (verdict.word, verdict.ok) == ("usable", True)
    (line,) = verdict.notes
    assert said in line


@pytest.mark.parametrize(
    ("found", "settings"),
    [
        (NFS, (15.0, True, 240.0, 2000.0)),
        (NFS._replace(events=True), (60.0, True, 240.0, 2000.0)),
        (NFS._replace(list_s=0.002), (20.0, True, 240.0, 2000.0)),
        (NFS._replace(list_s=1.0, lock_excludes=False, listing_late_s=40.0), (30.0, False, 280.0, 2000.0)),
        # events of one node say nothing of those of another
        (NFS._replace(events=True, hosts=("node1", "node1")), (15.0, True, 240.0, 2000.0)),
        (NFS._replace(create_per_s=700.4), (15.0, True, 240.0, 700.0)),
        (NFS._replace(rename_per_s=9.0), (15.0, True, 240.0, 200.0)),
    ],
)
def test_settings_follow_from_the_findings(found: Findings, settings: tuple[float, bool, float, float]) -> None:
    assert judge(found).settings == settings


# -- the probes --------------------------------------------------------------------------------------------


def _left(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def test_a_real_filesystem_is_found_to_keep_the_laws_and_nothing_is_left(tmp_path: Path) -> None:
    found = probes.alone(str(tmp_path))
    assert judge(found).broken == []
    assert (len(found.hosts), found.nodes, found.races) == (3, 1, 100)
    assert found.lock_excludes
    assert found.links
    assert found.executable
    assert min(found.create_per_s, found.rename_per_s, found.list_s) > 0
    assert _left(tmp_path) == []


def _two_win_rename(_operation: str, path: str) -> None:
    if os.path.basename(path).startswith("file-"):
        Path(path).touch()  # whoever comes second finds it again


def _is_raced_for(path: str, begin: str) -> bool:
    directory, name = os.path.split(path)
    return os.path.basename(directory) == "work" and name.startswith(begin)


def _two_win_mkdir(_operation: str, path: str) -> None:
    if _is_raced_for(path, "mkdir-"):
        with contextlib.suppress(OSError):
            os.rmdir(path)


def _two_win_create(_operation: str, path: str) -> None:
    if _is_raced_for(path, "create-"):
        Path(path).unlink(missing_ok=True)


def _no_links(operation: str, path: str) -> None:
    if operation == "link":
        raise OSError(errno.EPERM, "no hard links", path)


def _rmdir_takes_all(operation: str, path: str) -> None:
    if operation == "rmdir":
        for name in os.listdir(path):
            Path(path, name).unlink()


def _a_lock_for_each(operation: str, path: str) -> None:
    if operation == "open" and os.path.basename(path) == "lock":
        Path(path).unlink(missing_ok=True)
        Path(path).touch()


def _torn_reads(operation: str, path: str) -> None:
    if operation == "open" and os.path.basename(path) == "replaced":
        with contextlib.suppress(OSError):
            os.truncate(path, 10)


BAD: dict[str, tuple[Callable[[str, str], None], Callable[[Findings], bool], str]] = {
    "rename has two winners": (_two_win_rename, lambda found: found.rename_wrong > 0, "do not"),
    "mkdir has two winners": (_two_win_mkdir, lambda found: found.mkdir_wrong > 0, "do not"),
    "O_EXCL has two winners": (_two_win_create, lambda found: found.create_wrong > 0, "do not"),
    "rmdir takes what is not empty": (_rmdir_takes_all, lambda found: not found.rmdir_keeps, "do not"),
    "a reader sees half a file": (_torn_reads, lambda found: found.torn > 0, "do not"),
    "no hard links": (_no_links, lambda found: not found.links, "usable"),
    "locks exclude nobody": (_a_lock_for_each, lambda found: found.lock_excludes is False, "usable"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BAD)
def test_a_filesystem_that_breaks_a_law_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    fault, is_found, word = BAD[kind]
    monkeypatch.setattr(fsops, "fault", fault)
    found = probes.alone(str(tmp_path))
    assert is_found(found), found
    # space and speed of the machine that tests may add notes, and never a broken law
    verdict = judge(found._replace(bytes_free=1 << 40, create_per_s=1e4, rename_per_s=1e4))
    assert verdict.word == word
    assert len(verdict.broken) == (word == "do not")
    assert _left(tmp_path) == []


def test_programs_that_cannot_be_executed_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(*_arguments: Any, **_options: Any) -> None:
        raise PermissionError(errno.EACCES, "noexec")

    monkeypatch.setattr(probes.subprocess, "run", cannot)
    assert not probes.alone(str(tmp_path), 2).executable


def test_a_filesystem_without_locks_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int, *, blocking: bool) -> bool:
        raise OSError(errno.ENOSYS, "no locks")

    import filelock

    monkeypatch.setattr(filelock, "lock_descriptor", refuse)
    assert probes.alone(str(tmp_path), 2).lock_excludes is None


def test_locks_whose_calls_do_not_come_back_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on NFS 3, where the server's lockd cannot be reached."""
    import filelock

    answers = threading.Event()
    monkeypatch.setattr(filelock, "lock_descriptor", lambda _descriptor, *, blocking: answers.wait(60))
    monkeypatch.setattr(probes, "LOCK_S", 0.05)
    assert probes.alone(str(tmp_path), 2).lock_excludes is None
    answers.set()


def test_a_name_that_others_never_see_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = probes.Meeting._listed
    monkeypatch.setattr(
        probes.Meeting, "_listed", lambda self, path: {name for name in listed(self, path) if name[:4] != "ping"}
    )
    monkeypatch.setattr(probes, "SIGHT_S", 0.05)
    assert probes.alone(str(tmp_path), 2).listing_late_s is None


def test_events_that_do_not_arrive_are_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes.Wakeup, "watch", lambda *_: True)
    monkeypatch.setattr(probes, "EVENT_S", 0.05)
    assert probes.alone(str(tmp_path), 2).events is False


def test_what_the_filesystem_refuses_is_an_error_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(operation: str, path: str) -> None:
        if operation == "create" and path.endswith("/speed/7"):
            raise OSError(errno.ENOSPC, "full", path)

    monkeypatch.setattr(fsops, "fault", full)
    with pytest.raises(StorageError, match="No space left on device"):
        probes.alone(str(tmp_path), 2)
    assert _left(tmp_path) == []


def test_a_filesystem_that_is_full_for_one_process_alone_is_said_to_be_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = os.getpid()

    def full(operation: str, path: str) -> None:
        if operation == "create" and "work" in path.split("/") and os.getpid() != own:
            raise OSError(errno.ENOSPC, "full", path)

    monkeypatch.setattr(fsops, "fault", full)
    with pytest.raises(StorageError, match=r"cannot measure in .*: No space left on device"):
        probes.alone(str(tmp_path), 2)
    assert _left(tmp_path) == []


def test_a_doctor_that_is_ended_leaves_nothing(lab: Lab) -> None:
    waiting = lab.start("doctor", ".", "--peer", "word")
    cliutil.wait_until(lambda: list(lab.cwd.glob(".doctor-word/peers/*")), "the doctor waits for its peer")
    waiting.signal(signal.SIGTERM)
    assert waiting.wait(code=4).stdout == ""
    assert list(lab.cwd.glob(".doctor*")) == []


def test_a_meeting_that_is_broken_off_is_gone_at_once_whatever_a_peer_still_makes_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meeting = probes.Meeting.join(str(tmp_path), "word", 1)
    monkeypatch.setattr(fsops, "remove_tree", lambda path: None)  # as one that finds new files each time
    meeting.remove()
    with pytest.raises(NotFound, match="a peer has broken the meeting off"):
        meeting.say("anything")


def test_a_peer_that_does_not_come_is_missed(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="other peers did not come"):
        probes.together(str(tmp_path), "word", 2, patience_s=0.05)
    assert _left(tmp_path) == []


def test_what_a_killed_doctor_has_left_is_said(tmp_path: Path) -> None:
    peers = tmp_path / naming.meeting_directory("word") / "peers"
    peers.mkdir(parents=True)
    for name in ("old-1-00000001", "old-2-00000002"):
        (peers / name).touch()
    with pytest.raises(UsageError, match="remove that directory"):
        probes.together(str(tmp_path), "word", 2)


# -- the command -------------------------------------------------------------------------------------------


def test_the_command_tells_and_keeps_what_it_found(lab: Lab) -> None:
    lab.spool.mkdir()
    told = lab.torc("-f", "json", "doctor", lab.spool).json
    assert told["verdict"] in ("good", "usable")
    assert told["broken"] == []
    assert told["settings"]["lease_s"] >= 240
    assert told["findings"]["rename_wrong"] == 0
    assert _left(lab.spool) == [doctor.FILE]
    assert json.loads((lab.spool / doctor.FILE).read_text()) == told
    text = lab.torc("doctor", lab.spool).stdout
    assert text.startswith("verdict: ")
    assert "settings: idle runners look every" in text
    lab.submit("true")
    lab.run(1)


@pytest.mark.parametrize("meet", [["--peer", "here"], ["--peers", 2]], ids=["by a word", "in a step of Slurm"])
def test_two_doctors_meet_and_each_tells_or_one_for_their_step(lab: Lab, meet: list[object]) -> None:
    lab.spool.mkdir()
    step = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}
    one = lab.start("-f", "json", "doctor", lab.spool, *meet, env=step)
    other = lab.torc("-f", "json", "doctor", lab.spool, *meet, env=step)
    both = (one.wait(), other)
    told = [done.json["findings"] for done in both if done.stdout]
    silent = [done.stderr for done in both if not done.stdout]
    assert len(told[0]["hosts"]) == 2
    if "--peer" in meet:
        assert told[1:] == told[:1]
    else:
        assert "tells the rest" in silent[0]
    assert _left(lab.spool) == [doctor.FILE]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere: there is no such directory; make it first"),
        ([".", "--peers", "2"], "give all the same --peer NAME"),
        ([".", "--peer", ""], "give a word that all peers are told"),
    ],
)
def test_bad_use_is_one_sentence(lab: Lab, words: list[str], said: str) -> None:
    done = lab.torc("doctor", *words, code=2, env={"SLURM_JOB_ID": None, "SLURM_STEP_ID": None})
    assert said in done.sentence()


def test_a_directory_that_others_may_write_to_is_refused(lab: Lab) -> None:
    lab.spool.mkdir()
    lab.spool.chmod(0o777)
    assert "others may write" in lab.torc("doctor", lab.spool, code=2).sentence()


# -- what runners make of it -------------------------------------------------------------------------------


def _keep(directory: Path, poll_s: object, version: int = doctor.VERSION, **more: object) -> None:
    (directory / doctor.FILE).write_text(json.dumps({"version": version, "settings": {"poll_s": poll_s, **more}}))


def test_only_a_word_within_reason_and_of_the_same_user_counts(tmp_path: Path) -> None:
    me = os.geteuid()
    assert doctor.settings(str(tmp_path), user=me) is None
    _keep(tmp_path, 20)
    assert doctor.settings(str(tmp_path), user=me) == (20, True, 240, 2000)
    assert doctor.settings(str(tmp_path), user=me + 1) is None
    for bad in (0, -1, 1e9, "often", None):
        _keep(tmp_path, bad)
        assert doctor.settings(str(tmp_path), user=me) is None
    _keep(tmp_path, 20, lease_s=100)  # shorter than what runners publish anyway
    assert doctor.settings(str(tmp_path), user=me) is None
    for bad in (199, 2001):
        _keep(tmp_path, 20, calls_per_s=bad)
        assert doctor.settings(str(tmp_path), user=me) is None
    _keep(tmp_path, 20, version=2)
    assert doctor.settings(str(tmp_path), user=me) is None
    (tmp_path / doctor.FILE).write_bytes(b"\xff{")
    assert doctor.settings(str(tmp_path), user=me) is None
    (tmp_path / doctor.FILE).unlink()
    (tmp_path / doctor.FILE).symlink_to("/dev/zero")
    assert doctor.settings(str(tmp_path), user=me) is None


def test_a_runner_heeds_it_on_a_network_filesystem_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowest() -> float:
        return Runner(Spool(str(tmp_path)), Options(Capacity(num_cpus=1, memory_mib=100)))._slowest

    for network, without, heeded in ((True, runners.NETWORK_POLL_S, 20.0), (False, *[runners.LOCAL_POLL_S] * 2)):
        monkeypatch.setattr(mounts, "is_network", lambda _path, network=network: network)
        (tmp_path / doctor.FILE).unlink(missing_ok=True)
        assert slowest() == without
        _keep(tmp_path, 20)
        assert slowest() == heeded


def test_a_runner_heeds_the_lock_and_the_lease_too(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.submit("true")
    _keep(lab.spool, 20, lock=False, lease_s=280)
    asked: list[str] = []
    open_lock = fsops.open_lock
    monkeypatch.setattr(fsops, "open_lock", lambda path: asked.append(path) or open_lock(path))

    def published(network: bool) -> tuple[float, bool]:
        monkeypatch.setattr(mounts, "is_network", lambda _path: network)
        runner = Runner(Spool(str(lab.spool)), Options(Capacity(num_cpus=1, memory_mib=100)), workflow_id=1)
        runner._open_workflows()
        (served,) = runner.served
        with served.lock.held() as held:
            pass
        served.lock.close()
        return served.record.lease_s, held

    assert published(network=True) == (280, False)
    assert asked == []
    assert published(network=False) == (240, True)


@pytest.mark.parametrize(("asked", "network", "budget"), [(None, True, 300), (500, True, 500), (None, False, 2000)])
def test_a_runner_heeds_the_budget_unless_it_is_told_another(
    asked: float | None, network: bool, budget: float, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.submit("true")
    monkeypatch.setattr(mounts, "is_network", lambda _path: network)
    _keep(lab.spool, 20, calls_per_s=300)
    options = Options(Capacity(num_cpus=1, memory_mib=100), calls_per_s=asked)
    runner = Runner(Spool(str(lab.spool)), options, workflow_id=1)
    runner._open_workflows()
    assert [served._calls_per_s for served in runner.served] == [budget]
    assert doctor.budget(str(lab.spool), asked)() == budget


def test_the_lease_is_never_shorter_than_what_runners_publish() -> None:
    assert judge(FINE).settings.lease_s == lease.DEFAULT_S
