"""What a check can say, and what a repair can do about it: plain values."""

from __future__ import annotations

from typing import NamedTuple

from torc_spool.picture import Event

PARKED = "it is moved to lost+found/"
ANEW = f"{PARKED}, and the job is made anew from the record where no other file of it is left"
RESTORED = "what it held is put in its place, as its digest or its copy proves; what lies there is moved to lost+found/"
NOTHING = "nothing: put it back from a copy of the spool"


class Park(NamedTuple):
    """Move it to lost+found/, whatever it is."""

    path: str


class Rename(NamedTuple):
    """Give a job's file the place and the name that it must have."""

    path: str
    target: str


class Make(NamedTuple):
    """Make a directory, or an empty file where `is_file`. What lies in its place is moved to lost+found/."""

    path: str
    is_file: bool = False


class TakeBack(NamedTuple):
    """Take back what lies in the directories of an owner that nobody knows, or that has ended."""

    owner: str


class Anew(NamedTuple):
    """Make a lost job from the record."""

    job: int
    attempt: int  # the highest that is known of it


class AnewAction(NamedTuple):
    number: int
    performance: int


class Resubmit(NamedTuple):
    """Put the submitted value of user data in place of what lies there."""

    path: str


class Restore(NamedTuple):
    """Put a record back of which it is known what it held. What lies in its place is moved to lost+found/."""

    path: str
    data: bytes


class Close(NamedTuple):
    """Say in a runner's directory that it is dead, and that its record is lost; what is left of that is moved away."""

    path: str
    left: tuple[str, ...] = ()


class Rewrite(NamedTuple):
    """Make a journal anew, from what the jobs' files hold; the old one is moved to lost+found/."""

    path: str
    events: tuple[Event, ...]


Fix = Park | Rename | Make | TakeBack | Anew | AnewAction | Resubmit | Restore | Close | Rewrite


class Finding(NamedTuple):
    """Something that is not as the format says."""

    kind: str
    path: str  # below the workflow's directory; empty for what lies nowhere
    job: int | None
    what: str
    repair: str
    fix: Fix | None = None
