"""What a command hands to the steps and jobs that follow it in a workflow: lines in the file of `$GITHUB_OUTPUT`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def hand_on(values: Mapping[str, str | bool]) -> None:
    """Appends `name=value`, booleans as true and false. Outside a workflow it does nothing.

    ValueError: a value of several lines, which would forge another output.
    """
    lines = [f"{name}={_text(value)}\n" for name, value in values.items()]
    if any(len(line.splitlines()) != 1 for line in lines):
        raise ValueError(f"expected values of one line, found {dict(values)!r}")
    if output := os.environ.get("GITHUB_OUTPUT"):
        with Path(output).open("a", encoding="utf-8") as file:
            file.writelines(lines)


def _text(value: str | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else value
