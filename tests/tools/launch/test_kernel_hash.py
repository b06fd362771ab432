"""The kernel's identity: what changes the machine code changes the hash, what doesn't does not."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tools.checkout import CHECKOUT
from tools.launch.kernel_hash import KERNEL_MODULE, hash_source, kernel_sha256

SOURCE = '''
import triton
import triton.language as tl

@triton.jit
def b(x, BLOCK: tl.constexpr):
    """Doubles."""
    return x * 2

@triton.jit
def a(x):
    return x + 1

def host(x):
    return x
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Doubles.", "Returns twice x."),
        ('    """Doubles."""\n', ""),
        ("x * 2", "( x*2 )  # a comment"),
        ("def host(x):\n    return x", "def other(): pass"),
        ("import triton\n", "import os, triton\n"),
    ],
)
def test_prose_formatting_and_host_code_do_not_count(old: str, new: str) -> None:
    assert old in SOURCE
    assert hash_source(SOURCE.replace(old, new)) == hash_source(SOURCE)


def test_the_order_of_functions_does_not_count() -> None:
    head, b, a = re.split(r"(?=@triton)", SOURCE)
    assert hash_source(head + a + b) == hash_source(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x * 2", "x * 3"),
        ("x * 2", "x * 2.0"),
        ("x * 2", "x + 2"),
        ("x + 1", "None"),
        ("x + 1", "True"),
        ("def a", "def c"),
        ("BLOCK: tl.constexpr", "BLOCK"),
        ("def a(x)", "def a(x=None)"),
        ("@triton.jit\ndef a", "@triton.jit(noinline=True)\ndef a"),
        ("@triton.jit\ndef a", "def a"),
    ],
)
def test_code_counts(old: str, new: str) -> None:
    assert old in SOURCE
    assert hash_source(SOURCE.replace(old, new)) != hash_source(SOURCE)


def test_a_function_that_only_sounds_so_is_none_of_the_kernels() -> None:
    assert hash_source(SOURCE + "\n@not_a_jitter\ndef z(x):\n    return x\n") == hash_source(SOURCE)


def test_the_shipped_kernel_has_one_and_its_functions_are_found() -> None:
    assert re.fullmatch("[0-9a-f]{64}", kernel_sha256())
    assert kernel_sha256() != hash_source("")
    assert kernel_sha256() == hash_source(KERNEL_MODULE.read_text("utf-8"))


def test_it_needs_neither_triton_nor_torch() -> None:
    code = (
        "import sys; from tools.launch.kernel_hash import kernel_sha256; kernel_sha256();"
        "sys.exit(bool({'triton', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=False).returncode == 0
