"""A tuned file in a place or under a name where its engine doesn't look is one that nobody reads."""

from __future__ import annotations

from collections.abc import Iterator

from tools.findings import Severity
from tools.store.config_file import Tree
from tools.store.tiers import Role, why_skipped
from tools.store.workload import Layout
from tools.validate.model import Context, Issue, TreeRule


def check(tree: Tree, context: Context) -> Iterator[Issue]:
    """Whatever looks like a tuned file lies where the engine reads it, under a name that it reads."""
    for found in tree.others:
        if found.role is Role.SKIPPED:
            message, fix = why_skipped(found, context.layout)
            yield Issue(message, fix, Severity.WARNING, path=found.path)


RULE = TreeRule("skipped-file", "The engine reads every tuned file.", check, frozenset({Layout.VLLM, Layout.SGLANG}))
