"""Runs every rule over a tree of tuned files. A rule that crashes is a finding too, and the rest goes on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tools.errors import MachineError
from tools.findings import Finding, Report, Severity, ordered
from tools.store.config_file import Tree, load
from tools.store.files import discover, tuned_files_of_records
from tools.store.workload import Layout
from tools.text import shown_path
from tools.validate.exceptions import Exceptions
from tools.validate.model import Context, FileRule, Issue, Rule
from tools.validate.rules import RULES, canonical_record, record


def validate(paths: Iterable[Path], context: Context, exceptions: Exceptions, rules: Iterable[Rule] = RULES) -> Report:
    """Every finding on every tuned file at or below the paths. Raises FileNotFoundError for a missing path."""
    layout = context.layout
    found = discover(paths, layout)
    tree = load(found, layout)
    chosen = [rule for rule in rules if layout in rule.layouts]
    findings = [finding for rule in chosen for finding in _findings(rule, tree, context)]
    # records named without their tuned files: what is said about them is said through the files
    recorded = load(tuned_files_of_records(found), layout)
    of_records = [rule for rule in chosen if rule in (record.RULE, canonical_record.RULE)]
    findings += [finding for rule in of_records for finding in _findings(rule, recorded, context)]
    if layout is Layout.REPO:
        findings = exceptions.apply(findings, found)
    return Report(len(tree.configs) + len(recorded.configs), ordered(findings))


def _findings(rule: Rule, tree: Tree, context: Context) -> Iterator[Finding]:
    if isinstance(rule, FileRule):
        for file in tree.configs:
            yield from _guarded(rule, file.found.path, functools.partial(rule.check, file, context))
    else:
        yield from _guarded(rule, Path(), functools.partial(rule.check, tree, context))


def _guarded(rule: Rule, path: Path, check: Callable[[], Iterable[Issue]]) -> Iterator[Finding]:
    try:
        for issue in check():
            shown = shown_path(issue.path or path)
            yield Finding(shown, rule.name, issue.severity, _shorten(issue.message), _shorten(issue.fix))
    except MachineError:  # it says nothing of the file
        raise
    except Exception as error:  # a defect of ours must not hide the other rules' findings
        message = f"the rule itself failed: {type(error).__name__}: {error}"
        yield Finding(shown_path(path), rule.name, Severity.ERROR, _shorten(message), "report it with this file")


def _shorten(text: str, limit: int = 2000) -> str:
    """Messages quote the file, and a file may hold a number of thousands of digits or a key of a megabyte."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
