"""The tutorial of the Python API is a program: it is run, its output compared, its types checked."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import cliutil
import pytest
from cliutil import Lab

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/python.md"
_BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)

lab = cliutil.lab


def blocks() -> list[tuple[str, str]]:
    """(code, what it prints)."""
    found = _BLOCK.findall(PAGE.read_text())
    assert len(found) > 4
    return found


def test_the_tutorial_prints_what_it_shows(lab: Lab) -> None:
    script = lab.cwd / "tutorial.py"
    script.write_text("".join(f"{code}print(end='\\x1e')\n" for code, _ in blocks()))
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=lab.cwd,
        env={**lab.env, "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=cliutil.TIMEOUT_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
    printed = done.stdout.split("\x1e")[:-1]
    for (code, shown), output in zip(blocks(), printed, strict=True):
        assert output == shown, f"this prints something else:\n{code}"


@pytest.mark.slow
def test_the_tutorial_is_typed(tmp_path: Path) -> None:
    """As a user's program would be: strictly."""
    script = tmp_path / "tutorial.py"
    script.write_text("".join(code for code, _ in blocks()))
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path / 'cache'}"]
    done = subprocess.run(
        [*command, str(script)],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},  # mypy does not follow what an editable install does
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.stdout == "Success: no issues found in 1 source file\n", done.stdout + done.stderr
