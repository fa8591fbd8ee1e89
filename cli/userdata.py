"""`torc-spool user-data`: the small JSON values that jobs read and write."""

from __future__ import annotations

import os
import sys
from typing import Any

import click
import msgspec

from torc_spool import userdata
from torc_spool.errors import DamagedFile, NotFound, UsageError
from torc_spool.spool import Spool
from torc_spool.store import Store

from .common import CommonGroup, State, WorkflowId, check_named, clean, show_json, show_table

_ID = "TORC_WORKFLOW_ID"
_SHOWN = 60


@click.group("user-data", cls=CommonGroup)
def user_data() -> None:
    """The user data of a workflow: small JSON values that jobs read and write.

    Inside a job ID may be left out. NAME is a name, or the path that ${user_data.input.NAME} stands for.
    """


@user_data.command("list")
@click.argument("words", metavar="[ID]", nargs=-1)
@click.pass_context
def list_(context: click.Context, words: tuple[str, ...]) -> None:
    """List all user data with the values as they are now."""
    if len(words) > 1:
        raise UsageError(f"give one ID, got {len(words)} words")
    state = _state(context)
    store = _open(context, words[0] if words else None, state.spool())
    values = [(datum, _value(store, datum)) for datum in userdata.known(store)]
    if state.json:
        show_json([{"name": d.name, "data": value, "is_ephemeral": d.is_ephemeral} for d, value in values])
        return
    show_table(("name", "data"), [(datum.name, _short(value)) for datum, value in values])


@user_data.command("get")
@click.argument("words", metavar="[ID] NAME", nargs=-1)
@click.pass_context
def get(context: click.Context, words: tuple[str, ...]) -> None:
    """Print one value, as JSON."""
    state = _state(context)
    store, datum = _find(context, words, state)
    value = userdata.read(store, datum)
    show_json({"name": value.name, "data": value.data} if state.json else value.data)


@user_data.command("update")
@click.argument("words", metavar="[ID] NAME", nargs=-1)
@click.option("--data", metavar="JSON", help="The new value.")
@click.option("--file", metavar="FILE", help="A file that holds it, or - for stdin.")
@click.pass_context
def update(context: click.Context, words: tuple[str, ...], data: str | None, file: str | None) -> None:
    """Put another value in place of one. Of two who do it at once the last one stays."""
    state = _state(context)
    if (data is None) == (file is None):
        raise UsageError("give either --data JSON or --file FILE")
    text = _read(file) if data is None else data.encode(errors="surrogateescape")
    store, datum = _find(context, words, state)
    store.check_trust()
    userdata.update(store, datum, text)
    if state.json:
        show_json({"name": datum.name, "data": msgspec.Raw(text.strip())})


def _state(context: click.Context) -> State:
    state = context.find_object(State)
    assert state is not None
    return state


def _find(context: click.Context, words: tuple[str, ...], state: State) -> tuple[Store, userdata.Datum]:
    """The workflow and the datum that `[ID] NAME` means."""
    if not 1 <= len(words) <= 2:
        raise UsageError(f"give ID and NAME (inside a job NAME alone), got {len(words)} words")
    name = words[-1]
    if len(words) == 1 and _ID not in os.environ and os.path.isabs(name):
        root = os.path.dirname(os.path.dirname(name))
        store = Store.open(root, allow_shared=state.allow_shared)
    else:
        store = _open(context, words[0] if len(words) == 2 else None, state.spool())
    return store, userdata.find(store, name)


def _open(context: click.Context, word: str | None, spool: Spool) -> Store:
    said = os.environ.get(_ID) if word is None else word
    if not said:
        raise UsageError(f"give the workflow's ID ({_ID} is not set: this is not inside a job)")
    try:
        workflow_id = WorkflowId().convert(said, None, context)
    except click.BadParameter as error:
        raise UsageError(error.message) from error
    if not said.isdecimal():
        check_named(spool, workflow_id, said)
    return spool.open(workflow_id)


def _value(store: Store, datum: userdata.Datum) -> msgspec.Raw | None:
    try:
        return userdata.read(store, datum).data
    except (NotFound, DamagedFile):
        return None


def _short(value: Any) -> str:
    text = "-" if value is None else bytes(value).decode()
    text = " ".join(text.split())
    return clean(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


def _read(file: str | None) -> bytes:
    try:
        if file is None or file == "-":
            return sys.stdin.buffer.read()
        with open(file, "rb") as stream:
            return stream.read()
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from error
