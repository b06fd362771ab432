"""A stand-in for the source of SGLang's kernel: its arguments, its descriptors and its sorted rows."""

from __future__ import annotations

from pathlib import Path


def write(folder: Path) -> Path:
    """Under the name that SGLang gives it."""
    path = folder / "fused_moe_triton_kernels.py"
    path.write_text(Path(__file__).with_name("descriptors_fixture.txt").read_text("utf-8"), "utf-8")
    return path
