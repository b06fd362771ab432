"""Engines keep the files of several kernels in one folder, and vLLM's variable switches some of them too."""

from __future__ import annotations

from collections.abc import Iterator

from tools.findings import Severity
from tools.store.config_file import Tree
from tools.store.other_kernels import other_kernel
from tools.store.tiers import Role
from tools.store.workload import Layout
from tools.validate.model import Context, Issue, TreeRule


def check(tree: Tree, context: Context) -> Iterator[Issue]:
    """A file of another kernel is said to be one, and nothing else is said of it."""
    for found in tree.others:
        if found.role is Role.OTHER_KERNEL:
            yield Issue(
                f"not checked: a file of {other_kernel(found.path.name)}, not of the fused MoE Triton kernel",
                "nothing to do: leave it to its kernel; name the tuned files alone (E=*.json), and it isn't listed",
                Severity.INFO,
                path=found.path,
            )


RULE = TreeRule(
    "other-kernel",
    "Files of other kernels are told apart.",
    check,
    layouts=frozenset({Layout.VLLM, Layout.SGLANG}),
)
