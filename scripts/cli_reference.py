#!/usr/bin/env python3
"""Put what `--help` says into docs/cli.md: each fenced block that follows a line `<!-- help: COMMAND -->`.

usage: python scripts/cli_reference.py [--check]     (with the environment's Python, see scripts/env)

With --check nothing is written; the exit code says whether something would change.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from click.testing import CliRunner
from torc_spool_cli.main import cli

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
WIDTH = 100
_BLOCK = re.compile(r"(?P<mark><!-- help: (?P<command>[^\n]*?) -->\n)```text\n.*?```\n", re.DOTALL)
_COMMON = re.compile(r"(\n\nOptions:)?\n  --spool DIR .*?Show this message and exit\.", re.DOTALL)


def commands(group: click.Group = cli, path: str = "torc-spool") -> Iterator[tuple[str, click.Command]]:
    """Every command with the words that call it."""
    yield path, group
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def help_text(path: str) -> str:
    """What a command says of itself; the options that all commands share are shown at the top only."""
    words = path.split()[1:]
    result = CliRunner().invoke(
        cli, [*words, "--help"], prog_name="torc-spool", terminal_width=WIDTH, max_content_width=WIDTH
    )
    assert result.exit_code == 0, result.output
    text = result.output.rstrip("\n")
    if words:
        text = _COMMON.sub("", text)
    return f"{text}\n"


def render(page: str) -> str:
    """The page with the present help in its blocks. Raises KeyError for a command that does not exist."""
    texts = {path: help_text(path) for path, _ in commands()}
    return _BLOCK.sub(lambda block: f"{block['mark']}```text\n{texts[block['command']]}```\n", page)


def documented(page: str) -> list[str]:
    """The commands whose help the page shows."""
    return [block["command"] for block in _BLOCK.finditer(page)]


def main() -> int:
    before = PAGE.read_text()
    after = render(before)
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(after)
        return 0
    return int(before != after)


if __name__ == "__main__":
    sys.exit(main())
