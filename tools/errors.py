"""What ends a command because of what a person gave it, and how Python's own errors are told."""

from __future__ import annotations


class UserError(ValueError):
    """What was asked for can't be done. The message is for a person: where, expected, found, and the way out.

    `tools.cli.command` ends the command with it and exit code 2.
    """


class MachineError(UserError):
    """The machine fails: a full disk, no permission, no memory. It says nothing of what was to be judged."""


def reason_of(error: Exception) -> str:
    """What went wrong, without the number and the path that Python writes around an OSError's own words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def first_line(error: Exception) -> str:
    """Its kind and the first line of what it says, for a status."""
    return f"{type(error).__name__}: {error}".split("\n")[0][:500]
