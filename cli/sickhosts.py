"""`torc-spool sick-hosts`."""

from __future__ import annotations

import click

from torc_spool import report, sickhosts

from .common import WORKFLOW, CommonGroup, State, say, show_json, show_table


@click.group("sick-hosts", cls=CommonGroup)
def sick_hosts() -> None:
    """Hosts on which job after job failed at once."""


@sick_hosts.command("list")
@WORKFLOW
@click.pass_obj
def list_hosts(state: State, workflow_id: int) -> None:
    """List the hosts that are noted as sick. A note holds for a day."""
    rows = report.sick_hosts(state.spool().open(workflow_id))
    if state.json:
        show_json(rows)
        return
    columns = ("host", "slurm_node", "since", "runner", "reason")
    show_table(columns, [[row[column] for column in columns] for row in rows])


@sick_hosts.command("lift")
@WORKFLOW
@click.argument("host", metavar="HOST")
@click.pass_obj
def lift(state: State, workflow_id: int, host: str) -> None:
    """A host is well again: its notes hold no more."""
    runners = sickhosts.lift(state.spool().open_to_change(workflow_id), host)
    if state.json:
        show_json({"host": host, "runners": runners})
    else:
        say(f"host {host} is no longer noted as sick")
