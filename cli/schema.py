"""`torc-spool schema`: the specification's JSON Schema."""

from __future__ import annotations

import click

from torc_spool import specschema

from .common import CommonCommand, show_json


@click.command(cls=CommonCommand)
def schema() -> None:
    """Print the JSON Schema of specifications, for editors and other programs."""
    show_json(specschema.schema())
