"""Whatever lies in configs/ goes into the wheel and onto GPU runners: nothing but data belongs there."""

from __future__ import annotations

from collections.abc import Iterator

from tools.store.config_file import Tree
from tools.store.tiers import Role, why_no_version_tier
from tools.validate.model import REPO_ONLY, Context, Issue, TreeRule


def check(tree: Tree, context: Context) -> Iterator[Issue]:
    """Only tuned files, records, the registry and README.md lie in configs/."""
    for found in tree.others:
        if found.role is not Role.FOREIGN:
            continue
        kind = "a symbolic link" if found.path.is_symlink() else "a file of another kind or in another place"
        reason, fix = why_no_version_tier(found.path.parent.name) or (
            f"expected only tuned files, records and the registry in configs/, found {kind}",
            "move it to NAME.json, triton_X_Y_Z/, legacy_configs/ or records/, or remove it",
        )
        yield Issue(reason, fix, path=found.path)


RULE = TreeRule("foreign-file", "Nothing foreign lies in configs/.", check, layouts=REPO_ONLY)
