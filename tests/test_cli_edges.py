"""What a specification or a terminal may do to the program before it has begun: endless searches, pipes without a
writer, other alphabets, a Ctrl-C while modules are loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import cliutil
import pytest
from cliutil import TIMEOUT_S, Lab
from spectools import refused

from torc_spool import matching

lab = cliutil.lab

ENDLESS = ["^(a+)+$", "^(a|aa)+$", "a*a*a*a*a*a*a*a*a*c"]


def row(name: str = "a", **fields: Any) -> dict[str, Any]:
    return {"name": name, "command": "true", **fields}


@pytest.mark.parametrize("expression", ENDLESS)
def test_a_search_without_end_is_refused(expression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "SEARCH_S", 0.2)
    sentence = refused(row("a" * 200 + "b"), row("c", depends_on_regexes=[expression]))
    assert "job 'c': depends_on_regexes:" in sentence and "can be found in too many ways" in sentence


def test_the_bound_is_gone_after_a_search_and_needs_no_main_thread() -> None:
    found: list[list[str]] = []

    def look() -> None:
        found.append(matching.Names(["a1", "b1", "a2"], "jobs").found("^a", "here"))

    look()
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [["a1", "a2"]] * 2
    end = os.times().user + 0.05
    while os.times().user < end:  # an alarm that is still set would come here, and end this process
        pass


@pytest.mark.parametrize("fields", [{"parameters": {"i": "@pipe.csv"}}, {"parameters_file": "pipe.csv"}])
def test_a_list_or_table_that_is_a_pipe_holds_up_nobody(
    fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.csv")
    assert "'pipe.csv' is no regular file" in refused(row("of_{i}", **fields))


def test_names_in_other_letters_are_shown_on_a_terminal_that_has_none(lab: Lab) -> None:
    lab.submit({"name": "日本", "command": "true"})
    assert r"\u65e5\u672c" in lab.torc("jobs", "list", 1, env={"PYTHONIOENCODING": "ascii"}).stdout


@pytest.mark.parametrize("name", ["main", "job_runner"])
def test_ctrl_c_while_modules_are_loaded_leaves_no_traceback(name: str, tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    code = f"import sys; sys.path.insert(0, sys.argv[1]); from torc_spool_cli import entry; sys.exit(entry.{name}())"
    stopped = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, timeout=TIMEOUT_S, check=False
    )
    assert (stopped.returncode, stopped.stdout, stopped.stderr) == (4, b"", b"")


def test_a_repair_makes_nothing_outside_of_the_workflow_for_a_runner_whose_name_is_a_path(lab: Lab) -> None:
    lab.submit("true")
    lab.run(1)
    file = next((lab.root() / "done" / "completed").iterdir())
    content = json.loads(file.read_text())
    content["attempts"][0]["runner"] = "../../outside"
    file.write_text(json.dumps(content))
    found = json.loads(lab.torc("fsck", 1, "-f", "json", code=1).stdout)["findings"]
    assert "attempts" in [each["kind"] for each in found]
    lab.torc("fsck", 1, "--repair", code=1)
    assert not (lab.spool / "outside").exists()
    lab.torc("fsck", 1)
    lab.run(1)
    assert lab.jobs()["j1"]["attempt"] == 2
