"""The semantic diff for people and programs: text, markdown (also the release notes), JSON, GitHub annotations."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tools.findings import Finding, Report, Severity
from tools.findings import as_github as findings_as_github
from tools.pull_request.changes import KINDS, config_path
from tools.pull_request.diff import (
    BATCH_SIZES,
    MOST_EDITS,
    RECORD_ONLY,
    CoveredModel,
    Diff,
    Edit,
    EvidenceKind,
    FileChange,
    Group,
    Hidden,
    Kind,
    ModeChange,
)
from tools.store.tiers import DEFAULT_TIER
from tools.text import code, counted, dumped, shown

NAMED = 3
"""Files of a group that are named; of the others only the number is."""

NAMED_MODELS = 10

NAMED_KEYS = 12
"""Of a record, which has as many; a hostile one may have thousands."""

MOST_GROUPS = 50
"""Lines of one section. Findings of a hostile commit could fill a step summary otherwise."""

WORST_PCT = 1000.0
"""A record may claim anything: a greater loss than this is printed as this."""

Quote = Callable[[str], str]

_TITLES: Mapping[Kind, str] = {
    Kind.ADDED: "Added",
    Kind.RETUNED: "Re-tuned",
    Kind.MOVED: "Moved between tiers",
    Kind.REMOVED: "Removed",
    Kind.UNVERIFIED: "Main's own `verified` taken away, the same launch configs",
    Kind.RECORDED: "New evidence, the same launch configs",
    Kind.UNREADABLE: "Not readable (nox -s validate says why)",
}


_WARNINGS: Mapping[Kind, str] = {
    Kind.UNVERIFIED: "restore `verified`, or say in the description what main's own run got wrong",
    Kind.UNREADABLE: "nox -s validate says why",
}
"""The kinds that a reviewer has to look at, with the way out."""

_LOSES_WORD = "see that its readers get figures as good: what main's own run had measured leaves them"

_NONE_NEEDED = "none needed; the step summary has more"


@dataclass(frozen=True)
class Section:
    """A heading and its lines."""

    title: str
    lines: tuple[str, ...]


def sections(diff: Diff, quote: Quote) -> tuple[Section, ...]:
    """Everything the diff has to say; foreign names pass through `quote`."""
    found = [Section(_TITLES[kind], _cut([line(g, quote) for g in diff.of(kind)])) for kind in Kind if diff.of(kind)]
    if diff.hidden:
        found.append(Section("Hidden by added files", _cut([_hidden(one, quote) for one in diff.hidden])))
    if lines := _bench_lines(diff, quote):
        found.append(Section("Lines of benches that records gained", _cut(lines)))
    if diff.modes:
        found.append(Section("File modes", _cut([_mode(change, quote) for change in diff.modes])))
    if diff.gained or diff.lost:
        found.append(Section("Coverage, models × devices", tuple(_coverage(diff, quote))))
    if diff.others:
        found.append(Section("Other files", (_named(diff.others, quote, "file"),)))
    return tuple(found)


def line(group: Group, quote: Quote) -> str:
    """One line for files that changed alike."""
    names = _named([file.relative.name.removesuffix(".json") for file in group.files], quote, "file")
    first = group.files[0]
    if group.kind in (Kind.ADDED, Kind.REMOVED):
        return f"{quote(first.device_name)}, {_tier(first.tier)}: {names}{_gain(group, 'the heuristic')}{_word(first)}"
    if group.kind is Kind.UNREADABLE:
        return names
    if group.kind in RECORD_ONLY:
        return f"{_keys(first.record_keys, quote)} changed: {names}"
    moved = f"{_tier(first.moved_from)} → {_tier(first.tier)}" if first.moved_from else ""
    what = "; ".join(filter(None, [moved, _edits(group)]))
    rows = f", {counted(group.num_rows, 'row')}" if group.num_rows else ""
    devices = f" on {len(group.devices)} devices" if len(group.devices) > 1 else ""
    return f"{what}{rows}{devices}: {names}{_gain(group, 'the earlier entries')}{_word(first)}"


def as_text(diff: Diff) -> str:
    """For a terminal."""
    blocks = [[f"{section.title}", *(f"  {text}" for text in section.lines), ""] for section in sections(diff, shown)]
    return "\n".join([*itertools.chain.from_iterable(blocks), summary(diff)])


def as_markdown(diff: Diff) -> str:
    """For a step summary or a release."""
    blocks = [
        [f"### {section.title}", "", *(f"- {text}" for text in section.lines), ""] for section in sections(diff, code)
    ]
    return "\n".join(["## Tuned configs", "", *itertools.chain.from_iterable(blocks), summary(diff)])


def as_json(diff: Diff) -> str:
    """For programs: every group with every file."""
    document = {
        "base": diff.base,
        "head": diff.head,
        "groups": [_group_json(group) for group in diff.groups],
        "coverage": {
            "cells": diff.covered,
            "gained": [_cell_json(cell) for cell in diff.gained],
            "lost": [_cell_json(cell) for cell in diff.lost],
        },
        "others": list(diff.others),
        "modes": [vars(change) for change in diff.modes],
        "hidden": [
            {
                "path": config_path(one.hidden),
                "by": config_path(one.by),
                "standing": str(one.standing),
                "triton": list(one.releases),
            }
            for one in diff.hidden
        ],
    }
    return dumped(document)


def as_github(diff: Diff) -> str:
    """Workflow commands: an annotation for each group."""
    found = [
        Finding(
            shown(config_path(group.files[0].relative)),
            str(group.kind),
            Severity.INFO if _way_out(group) == _NONE_NEEDED else Severity.WARNING,
            line(group, shown),
            _way_out(group),
        )
        for group in diff.groups[:MOST_GROUPS]
    ]
    found += [
        Finding(
            shown(config_path(one.by)),
            "hides",
            Severity.INFO if one.standing is EvidenceKind.PUBLISHED else Severity.WARNING,
            _hidden(one, shown),
            "see that it is faster under that Triton: the report of our runners compares the two",
        )
        for one in diff.hidden[:MOST_GROUPS]
    ]
    return findings_as_github(Report(sum(len(group.files) for group in diff.groups), tuple(found)))


FORMATS: Mapping[str, Callable[[Diff], str]] = {
    "text": as_text,
    "markdown": as_markdown,
    "json": as_json,
    "github": as_github,
}


def summary(diff: Diff) -> str:
    """One line: how many of each kind, and how much is covered."""
    counts = {kind: sum(len(group.files) for group in diff.of(kind)) for kind in Kind}
    changed = [f"{count} {kind}" for kind, count in counts.items() if count]
    files = ", ".join(changed) if changed else "No tuned file changed"
    change = f" (+{len(diff.gained)}, −{len(diff.lost)})" if diff.gained or diff.lost else ""
    modes = f" {counted(len(diff.modes), 'file mode')} changed." if diff.modes else ""
    hidden = f" {counted(len({one.hidden for one in diff.hidden}), 'file')} hidden." if diff.hidden else ""
    return f"{files}.{hidden}{modes} {counted(diff.covered, 'pair')} of model and device covered{change}."


def _hidden(hidden: Hidden, quote: Quote) -> str:
    releases = ", ".join(hidden.releases)
    return (
        f"{quote(config_path(hidden.by))} hides {quote(config_path(hidden.hidden))} ({hidden.standing}) from readers "
        f"of Triton {releases}"
    )


def _bench_lines(diff: Diff, quote: Quote) -> list[str]:
    files = (file for group in diff.groups for file in group.files)
    return [f"{quote(config_path(file.relative))}: {quote(line)}" for file in files for line in file.bench_lines]


def _keys(keys: Sequence[str], quote: Quote) -> str:
    listed = ", ".join(map(quote, keys[:NAMED_KEYS]))
    return f"{listed} and {len(keys) - NAMED_KEYS} more" if len(keys) > NAMED_KEYS else listed or "form alone"


def _mode(change: ModeChange, quote: Quote) -> str:
    kind = KINDS.get(change.after, "no file that git knows")
    return f"{quote(change.path)}: {change.before or 'absent'} → {change.after} ({kind})"


def _edits(group: Group) -> str:
    """What changed in the group's files, by value where that is short."""
    edits = _sorted_edits(group)
    if len(edits) > MOST_EDITS:
        return ", ".join(dict.fromkeys(edit.key for edit in edits)) + " changed"
    return ", ".join(map(_edit, edits))


def _sorted_edits(group: Group) -> list[Edit]:
    """Of all its files. A value that isn't written comes before any other."""
    found: set[Edit] = set().union(*(file.edits for file in group.files))
    return sorted(found, key=lambda edit: (edit.key, edit.before or "", edit.after or ""))


def _edit(edit: Edit) -> str:
    if edit.key == BATCH_SIZES:
        return f"{edit.after} {BATCH_SIZES} more" if edit.after else f"{edit.before} {BATCH_SIZES} fewer"
    return f"{edit.key} {edit.before or 'absent'} → {edit.after or 'absent'}"


def _tier(tier: str | None) -> str:
    return "default tier" if tier == DEFAULT_TIER else str(tier)


def _gain(group: Group, over: str) -> str:
    """A gain is the author's word until main's own run has measured it."""
    if group.gain_pct is None:
        return ""
    return f"; median gain over {over} {max(group.gain_pct, -WORST_PCT):+.1f} % (claimed)"


def _way_out(group: Group) -> str:
    """That a re-tuned file is claimed until main has measured it is how every one comes."""
    loses_word = group.files[0].loses_word and group.kind is not Kind.RETUNED
    return _WARNINGS.get(group.kind, _LOSES_WORD if loses_word else _NONE_NEEDED)


def _word(file: FileChange) -> str:
    return "; main's own run had verified what was there" if file.loses_word else ""


def _named(names: Sequence[str], quote: Quote, noun: str) -> str:
    listed = ", ".join(map(quote, names[:NAMED]))
    if len(names) <= NAMED:
        return listed
    return f"{counted(len(names), noun)}: {listed} and {len(names) - NAMED} more"


def _coverage(diff: Diff, quote: Quote) -> Iterator[str]:
    for what, cells in (("gained", diff.gained), ("lost", diff.lost)):
        by_device = itertools.groupby(sorted(cells, key=lambda c: (c.device_name, c.model_id)), lambda c: c.device_name)
        for device_name, found in by_device:
            models = [cell.model_id for cell in found]
            listed = ", ".join(map(quote, models[:NAMED_MODELS]))
            more = f" and {len(models) - NAMED_MODELS} more" if len(models) > NAMED_MODELS else ""
            yield f"{what} on {quote(device_name)}: {listed}{more}"


def _cut(lines: Sequence[str]) -> tuple[str, ...]:
    more = [f"and {len(lines) - MOST_GROUPS} more lines"] if len(lines) > MOST_GROUPS else []
    return (*lines[:MOST_GROUPS], *more)


def _group_json(group: Group) -> dict[str, object]:
    first = group.files[0]
    return {
        "kind": str(group.kind),
        "edits": [vars(edit) for edit in _sorted_edits(group)],
        "moved_from": first.moved_from,
        "claimed_gain_pct": _rounded(group.gain_pct),
        "files": [
            {
                "path": config_path(file.relative),
                "rows": list(file.rows),
                "claimed_gain_pct": _rounded(file.gain_pct),
                "record_keys": list(file.record_keys),
                "bench_lines": list(file.bench_lines),
                "loses_verified": file.loses_word,
            }
            for file in group.files
        ],
    }


def _cell_json(cell: CoveredModel) -> dict[str, str]:
    return {"model": cell.model_id, "device_name": cell.device_name}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
