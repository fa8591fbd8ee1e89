"""`workflow.json` that is lost or torn: what else there is tells what it held, or a person is told what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import spooltools as tools
from spooltools import Wanted

from torc_spool import revise
from torc_spool.actor import Actor, identity, new_name
from torc_spool.errors import DamagedFile
from torc_spool.repair import look, open_anyway, repair
from torc_spool.spool import Spool

JOBS = tools.workflow({"first": Wanted(), "second": Wanted(after=("first",))})
DAMAGES: dict[str, Callable[[Path], object]] = {
    "lost": os.remove,
    "empty": lambda path: path.write_bytes(b""),
    "torn": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "of another workflow": lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), "id": 7})),
    "a link": lambda path: (path.unlink(), path.symlink_to("spec.yaml")),
    "renamed": lambda path: path.rename(path.with_name("kept.json")),
}


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    with tools.without_syncs_and_searches():
        tools.submit(str(tmp_path), JOBS)
        yield tmp_path / "1-test"


def revised(root: Path) -> Path:
    """The directory of a revision."""
    store = tools.open_workflow(str(root.parent))
    first, second = store.records()
    second = msgspec.structs.replace(second, command="true again", revision=1)
    actor = Actor.born(store, identity(new_name(), kind="reinitialize"))
    candidate = revise.Candidate(1, store.workflow, (first, second), {2: second}, tools.VERBATIM)
    revise.publish(actor, candidate, lambda: None)
    actor.retire()
    return root / "revision-1"


@pytest.mark.parametrize("of", ["the workflow", "a revision"])
@pytest.mark.parametrize("what", DAMAGES)
def test_it_is_put_back_and_the_workflow_finishes(what: str, of: str, root: Path) -> None:
    record = (root if of == "the workflow" else revised(root)) / "workflow.json"
    whole = record.read_bytes()
    if what == "renamed":
        (record.parent / ".workflow.json").unlink()  # one of an earlier program has no copy
    DAMAGES[what](record)
    damaged = None if not record.exists() else record.read_bytes()
    with pytest.raises(DamagedFile):
        Spool(str(root.parent)).open(1)
    store = open_anyway(Spool(str(root.parent)), 1)
    assert ("record", str(record.relative_to(root))) in {(each.kind, each.path) for each in look(store)}
    assert repair(store).left == []
    assert record.read_bytes() == whole
    if damaged is not None and what != "a link":
        assert damaged in [path.read_bytes() for path in (root / "lost+found").iterdir()]
    assert set(tools.drain(str(root.parent)).values()) == {"completed"}
    assert look(Spool(str(root.parent)).open(1)) == []


def test_where_nothing_tells_what_it_held_a_person_is_told_what_to_do(root: Path) -> None:
    for name in ("workflow.json", ".workflow.json"):
        (root / name).write_text("{")
    with pytest.raises(DamagedFile, match="nothing here tells what it held: put it back from a copy of the spool, or"):
        open_anyway(Spool(str(root.parent)), 1)


def test_one_of_the_future_is_not_replaced(root: Path) -> None:
    record = root / "workflow.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "version": 2}))
    with pytest.raises(DamagedFile, match=r"is of version 2; this program knows 1; use a newer one$"):
        open_anyway(Spool(str(root.parent)), 1)


def test_the_copy_must_say_the_same(root: Path) -> None:
    store, record, copy = tools.open_workflow(str(root.parent)), root / "workflow.json", root / ".workflow.json"
    copy.unlink()
    assert look(store) == []  # one of an earlier program has none
    copy.write_bytes(record.read_bytes()[:50])
    (finding,) = repair(store).findings
    assert finding.what == "the record .workflow.json is not as workflow.json, of which it is the copy"
    assert copy.read_bytes() == record.read_bytes()
    copy.write_bytes(record.read_bytes().replace(b'"cwd":"', b'"cwd":"/elsewhere'))
    (finding,) = repair(store).left
    assert (finding.path, finding.fix) == (".workflow.json", None)  # nobody knows which of them is right
