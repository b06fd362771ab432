"""Whatever lies in configs/ goes into the wheel and onto GPU runners: nothing but data belongs there."""

from __future__ import annotations

import os
from collections.abc import Iterator

from tools.store.config_file import Tree
from tools.store.other_kernels import other_kernel
from tools.store.tiers import Found, Role, why_no_version_tier
from tools.validate.model import REPO_ONLY, Context, Issue, TreeRule


def check(tree: Tree, context: Context) -> Iterator[Issue]:
    """Only tuned files, records, the registry and README.md lie in configs/."""
    for found in tree.others:
        if found.role is Role.FOREIGN:
            kind, fix = _kind_and_fix(found)
            reason = f"expected only tuned files, records and the registry in configs/, found {kind}"
            reason, fix = why_no_version_tier(found.path.parent.name) or (reason, fix)
            yield Issue(reason, fix, path=found.path)


def _kind_and_fix(found: Found) -> tuple[str, str]:
    if found.path.is_symlink():
        return "a symbolic link", "remove the link; where its file belongs here, put a copy of that in its place"
    if os.path.isdir(found.path):  # noqa: PTH112 (never raises)
        return "a folder that is named like a file", "remove it"
    if not os.path.isfile(found.path):  # noqa: PTH113 (never raises)
        return "a device, a pipe or a socket", "name a tuned file or a folder of them; if it lies in one, remove it"
    if (kernel := other_kernel(found.path.name)) is not None:
        return f"a file of {kernel}", "remove it: that kernel doesn't look here"
    kind = "a file of another kind or in another place"
    return kind, "move it to NAME.json, triton_X_Y_Z/, legacy_configs/ or records/, or remove it"


RULE = TreeRule("foreign-file", "Nothing foreign lies in configs/.", check, layouts=REPO_ONLY)
