"""Whether the lines that engines.json cites still stand in an engine's wheel, packed or unpacked."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fused_moe_configs.backends import Citation, EngineRelease, choose_release
from fused_moe_configs.registry import ServingError
from tools.errors import UserError, reason_of

_SHOWN = 5
"""Lines named where a symbol stands elsewhere."""


@dataclass(frozen=True)
class Wheel:
    """An engine's wheel, or the folder that holds its files: what it is of, and how a file in it is read.

    read: None where there is no such file.
    """

    engine: str
    version: str
    read: Callable[[str], str | None]


@dataclass(frozen=True)
class Moved:
    """A citation that doesn't hold. lines: where its symbol stands now; None: there is no such file."""

    citation: Citation
    lines: tuple[int, ...] | None

    def __str__(self) -> str:
        wish = f"{self.citation}: expected a line with {self.citation.symbol}, found"
        if self.lines is None:
            return f"{wish} no such file. Fix: look where it went, and whether the rule still holds."
        if not self.lines:
            return f"{wish} it nowhere in the file. Fix: look whether the rule still holds."
        more = f" and {len(self.lines) - _SHOWN} more" if len(self.lines) > _SHOWN else ""
        places = f"{', '.join(map(str, self.lines[:_SHOWN]))}{more}"
        return f"{wish} it on line {places}. Fix: look whether the rule still holds, and cite the line."


@dataclass(frozen=True)
class Check:
    """What became of one engine's citations in a wheel. note: where the wheel is of another release."""

    release: EngineRelease
    note: str | None
    moved: tuple[Moved, ...]


def check_citations(wheel: Wheel, releases: Sequence[EngineRelease]) -> Check:
    """The citations of the release whose rules hold for the wheel's version. UserError: no release does."""
    try:
        release, note = choose_release(releases, wheel.engine, wheel.version)
    except ServingError as error:
        raise UserError(str(error)) from error
    return Check(release, note, tuple(_moved(release, wheel)))


def open_wheel(engine: str, path: Path) -> Wheel:
    """A .whl file, or a folder into which one was unpacked or installed. UserError: it is none of the engine's."""
    try:
        if path.is_dir():
            names = [each.name for each in path.iterdir()]

            def read(name: str) -> str | None:
                file = path / name
                return file.read_text("utf-8", errors="replace") if file.is_file() else None
        else:
            archive = zipfile.ZipFile(path)
            members = set(archive.namelist())
            names = [name.partition("/")[0] for name in members]

            def read(name: str) -> str | None:
                return archive.read(name).decode("utf-8", errors="replace") if name in members else None
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: expected a wheel of {engine}, found: {reason_of(error)}. Fix: name one.") from error
    versions = {match[1] for name in names if (match := re.fullmatch(rf"{re.escape(engine)}-([^-]+)\.dist-info", name))}
    if len(versions) != 1:
        found = f"{engine}-X.dist-info {len(versions)} times"
        raise UserError(
            f"{path}: expected a wheel of {engine}, or the folder that one was unpacked into, found {found}. "
            "Fix: name one."
        )
    return Wheel(engine, versions.pop(), read)


def _moved(release: EngineRelease, wheel: Wheel) -> Iterator[Moved]:
    for citation in release.citations:
        text = wheel.read(citation.file)
        lines = None if text is None else _lines_with(citation.symbol, text)
        if lines is None or citation.line not in lines:
            yield Moved(citation, lines)


def _lines_with(symbol: str, text: str) -> tuple[int, ...]:
    """The numbers, from 1, of the lines on which it stands as a whole word."""
    word = re.compile(rf"(?<!\w){re.escape(symbol)}(?!\w)")
    return tuple(number for number, line in enumerate(text.split("\n"), start=1) if word.search(line))
