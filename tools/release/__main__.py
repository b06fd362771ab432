"""`python -m tools.release`: is a release due; its version, written into the loader; its data, beside the wheel."""

from __future__ import annotations

import argparse
import datetime
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tools.checkout import CHECKOUT
from tools.cli import command, day_argument, hand_on, path_argument, run
from tools.errors import UserError
from tools.git import Repository
from tools.release.data import write_data
from tools.text import shown

LOADER = CHECKOUT / "fused_moe_configs" / "__init__.py"

_VERSION = re.compile(r"20\d\d\.(?:[1-9]|1[0-2])\.(?:[1-9]|[12]\d|3[01])")
_VERSION_LINE = re.compile(rf'(?m)^__version__ = "{_VERSION.pattern}"$')
_SHIPPED = ("configs/", "fused_moe_configs/")
_STAYS_HOME = ("configs/README.md",)


class ReleaseError(UserError):
    """No release can be made so."""


@dataclass(frozen=True)
class Due:
    """version: `YYYY.M.D`. previous: the tag or commit that the notes start from."""

    is_due: bool
    version: str
    previous: str


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.release",
        description="Versions are dates; a release is due where anything changed that the wheel holds.",
        epilog="Exit 0: said or written. 2: bad use. With $GITHUB_OUTPUT, `plan` adds due, version and previous.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    plan = commands.add_parser("plan", help="is a release due, and which")
    plan.add_argument("--date", type=day_argument, required=True, metavar="YYYY-MM-DD")
    plan.add_argument("--force", action="store_true", help="due, whatever changed")
    stamp = commands.add_parser("stamp", help="write the version into the loader, before it is built")
    stamp.add_argument("version", metavar="YYYY.M.D")
    data = commands.add_parser("data", help="write what a release holds beside wheel and source archive")
    data.add_argument("dist", type=path_argument, metavar="DIST", help="the folder of the built wheel")
    data.add_argument("folder", type=path_argument, metavar="OUT", help="a new folder")
    return parser


@command("release")
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    args = parser().parse_args(arguments)
    if args.command == "stamp":
        LOADER.write_text(stamped(LOADER.read_text("utf-8"), args.version), "utf-8")
    elif args.command == "data":
        print(*write_data(args.dist, args.folder), sep="\n")
    else:
        _plan(args.date, is_forced=args.force)
    return 0


def _plan(date: datetime.date, *, is_forced: bool) -> None:
    repository = Repository(CHECKOUT)
    previous = repository.newest_tag("v20*") or repository.first_commit()
    if previous is None:
        raise ReleaseError("the checkout: expected a git repository with its history, found none. Fix: clone it whole.")
    before, after = (repository.tree(repository.commit(revision)) for revision in (previous, "HEAD"))
    changed = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    due = decide(date, previous, changed, is_forced=is_forced)
    print(f"{due.version}: {'due' if due.is_due else 'nothing that the wheel holds changed'} since {due.previous}")
    hand_on({"due": due.is_due, "version": due.version, "previous": due.previous})


def decide(date: datetime.date, previous: str, changed: Iterable[str], *, is_forced: bool) -> Due:
    """Due where anything changed that the wheel holds, or where a person asks.

    previous: the last tag, `vYYYY.M.D`, or the first commit where there is none. ReleaseError: the day has a release
    already, or a later day has, or the tag is no release's.
    """
    version = f"{date.year}.{date.month}.{date.day}"
    if previous.startswith("v"):
        released = previous.removeprefix("v")
        if not _VERSION.fullmatch(released):
            raise ReleaseError(
                f"the last tag: expected vYYYY.M.D, such as v{version}, found {shown(previous)}. Fix: delete it, since "
                "no release has such a name (git tag --delete, and git push --delete where it is pushed)."
            )
        if _numbers(released) >= _numbers(version):
            raise ReleaseError(f"--date: expected a day after the release {previous}, found {date}. Fix: wait a day.")
    is_shipped = any(path.startswith(_SHIPPED) and not path.startswith(_STAYS_HOME) for path in changed)
    return Due(is_forced or is_shipped, version, previous)


def stamped(source: str, version: str) -> str:
    """The loader's source with its version. ReleaseError: not a date, or no line for it."""
    if not _VERSION.fullmatch(version):
        raise ReleaseError(f"the version: expected a date like 2026.11.24, found {version!r}.")
    if len(_VERSION_LINE.findall(source)) != 1:
        raise ReleaseError('fused_moe_configs/__init__.py: expected one line __version__ = "YYYY.M.D", found another.')
    return _VERSION_LINE.sub(f'__version__ = "{version}"', source)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


if __name__ == "__main__":
    run(main, "release")
