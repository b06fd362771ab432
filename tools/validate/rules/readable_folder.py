"""A folder that can't be listed hides its files, and silence would read as if they were good."""

from __future__ import annotations

from collections.abc import Iterator

from tools.store.config_file import Tree
from tools.store.tiers import Role
from tools.validate.model import Context, Issue, TreeRule


def check(tree: Tree, context: Context) -> Iterator[Issue]:
    """Every folder on the way can be listed."""
    for found in tree.others:
        if found.role is Role.UNREADABLE:
            yield Issue(
                "expected a folder that can be listed, found one that can't be read",
                "make it readable",
                path=found.path,
            )


RULE = TreeRule("readable-folder", "Every folder can be listed.", check)
