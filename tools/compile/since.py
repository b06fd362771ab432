"""Which tuned files a change concerns, so that a pull request with one file compiles one file."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from tools.checkout import CHECKOUT
from tools.errors import reason_of
from tools.git import NOTHING
from tools.text import printable

CONCERNS_ALL = ("kernels/", "tools/", "configs/registry/", "pyproject.toml")
"""What every file's outcome hangs on: the kernel, the check, the devices' limits, the reference Triton."""


class SinceError(ValueError):
    """Git can't tell what changed. One line for a person."""


def concerned(files: Iterable[Path], changed: Iterable[str]) -> list[Path]:
    """Those of the files that changed; all of them where something changed that each hangs on.

    changed: paths relative to the checkout, with slashes.
    """
    names = set(changed)
    if any(name.startswith(CONCERNS_ALL) for name in names):
        return list(files)
    return [file for file in files if _relative(file) in names]


def changed_since(revision: str, checkout: Path = CHECKOUT) -> list[str]:
    """Paths that differ, in the working tree, from where HEAD's history left the revision's. SinceError: no such.

    From 40 zeros, as a push event calls what was before the first push, every path differs.
    """
    shown = printable(revision)
    if not revision or revision.startswith("-"):
        raise SinceError(f"--since: expected a git revision, found {shown!r}. Fix: name a commit or a branch.")
    if revision == NOTHING:
        return _paths(["git", "ls-files", "-z"], checkout, shown)
    command = ["git", "diff", "--merge-base", "--name-only", "--no-renames", "-z", "--end-of-options", revision, "--"]
    return _paths(command, checkout, shown)


def _paths(command: Sequence[str], checkout: Path, shown: str) -> list[str]:
    """The paths that git prints. SinceError: it prints none that could be used."""
    try:
        answer = subprocess.run(command, cwd=checkout, capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        found = reason_of(error)
        raise SinceError(f"--since {shown}: expected git to run, found: {found}. Fix: install git.") from error
    if answer.returncode:
        reason = printable(answer.stderr.decode("utf-8", "replace").strip().split("\n")[0])
        found = f"found {shown!r} ({reason}). Fix: fetch the whole history."
        raise SinceError(f"--since: expected a revision with a common history, {found}")
    return [name.decode("utf-8", "surrogateescape") for name in answer.stdout.split(b"\0") if name]


def _relative(path: Path) -> str:
    absolute = path.absolute()
    return absolute.relative_to(CHECKOUT).as_posix() if absolute.is_relative_to(CHECKOUT) else ""
