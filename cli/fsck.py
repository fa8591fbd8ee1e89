"""The command that checks a workflow's directory: fsck."""

from __future__ import annotations

from collections.abc import Sequence

import click

from torc_spool import repair as repairing
from torc_spool.errors import EXIT_JOBS_FAILED, EXIT_OK
from torc_spool.findings import Finding
from torc_spool.spool import command

from .common import WORKFLOW, CommonCommand, State, clean, say, show_json


@click.command(cls=CommonCommand)
@WORKFLOW
@click.option("--repair", is_flag=True, help="Mend it: move what is wrong to lost+found/, make lost jobs anew.")
@click.pass_obj
def fsck(state: State, workflow_id: int, repair: bool) -> int:
    """Check that a workflow's directory is as the format says, and say what is not.

    Exit codes: 0 it is sound; 1 damage was found, also where it was repaired; 2 bad usage, or it cannot be checked.
    """
    spool = state.spool()
    store = repairing.open_anyway(spool, workflow_id)
    if repair:
        mended = repairing.repair(store)
        _show(state, mended.findings, mended.repaired, sound=not mended.left)
        if not state.json and mended.findings:
            rest = f"{len(mended.left)} are left" if mended.left else command(spool.path, f"run {workflow_id} goes on")
            say(f"{mended.repaired} of {len(mended.findings)} repaired; {rest}")
        return EXIT_JOBS_FAILED if mended.findings else EXIT_OK
    at_work = repairing.living(store)
    found = repairing.look(store)
    _show(state, found, 0, sound=not found)
    if found and at_work:
        say(f"runner {at_work[0]} may be at work: what was just moving may seem wrong; look again after its end")
    if found and not state.json:
        say(f"{len(found)} found; mend it with: {command(spool.path, f'fsck {workflow_id} --repair')}")
    return EXIT_JOBS_FAILED if found else EXIT_OK


def _show(state: State, found: Sequence[Finding], repaired: int, *, sound: bool) -> None:
    if state.json:
        rows = [
            {"kind": each.kind, "path": each.path or None, "job": each.job, "what": each.what, "repair": each.repair}
            for each in found
        ]
        show_json({"sound": sound, "findings": rows, "repaired": repaired})
        return
    for each in found:
        click.echo(f"{each.kind}: {clean(each.what)}; repair: {clean(each.repair)}")
    if not found:
        click.echo("sound")
