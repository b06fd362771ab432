"""The identity of the kernel that a record was measured on, computable without triton.

SHA-256 over the syntax trees of the JIT functions of kernels/fused_moe_kernel.py, as `syntax_hash` has it.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path

from tools.checkout import CHECKOUT
from tools.launch.source_cut import is_jit
from tools.launch.syntax_hash import sha256_of_code

KERNEL_MODULE = CHECKOUT / "kernels" / "fused_moe_kernel.py"


EARLIER = frozenset(
    {
        "1afb9a70fc40f92859424dba6a24e7900ebf579afca636bce38bf826126281c6",
        "64f46a2edd4723eca962461d3724f37055263672968615bbc37ce3ec36059ba3",
        "5fc444e90acdcfb781bda8f0ab51abb1629c1e93e351d7a550c8e71ba5ff7b8d",
    }
)
"""Of the kernels that main had before. Whoever changes the kernel adds the hash that it had until then, or the records
of it are of a kernel that is not this project's."""


def is_known(sha256: str) -> bool:
    """Whether a kernel of this project has that hash: the one of this checkout, or an earlier one.

    It can't be proved that figures were measured on it; that no kernel of ours has the hash, can.
    """
    return sha256 == kernel_sha256() or sha256 in EARLIER


@functools.cache
def kernel_sha256(module: Path = KERNEL_MODULE) -> str:
    """Lower-case hexadecimal SHA-256 of the JIT functions in `module`."""
    return hash_source(module.read_text("utf-8"))


def hash_source(source: str) -> str:
    """As `kernel_sha256`, for source text. Functions count in the order of their names."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef) and is_jit(node)]
    functions.sort(key=lambda function: function.name)
    return sha256_of_code(functions)
