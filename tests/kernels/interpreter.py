"""Triton's interpreter, with the arithmetic of a GPU."""

from __future__ import annotations

import os
from typing import Any

import torch


def is_interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def repair_interpreter() -> None:
    """Makes the interpreter's arithmetic that of a GPU where it differs (Triton 3.6 to 3.9). Does nothing without it.

    A dot of bf16 multiplies the raw 16-bit patterns; fp32 to fp8 loses the carry of rounding up (127.9 becomes 64);
    fp32 to bf16 truncates; integers to bf16 keep their bits. Launches run one after the other here, so one that
    depends on another has nothing to wait for.
    """
    if not is_interpreted():
        return
    import numpy as np
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    if getattr(InterpreterBuilder, "repaired", False):
        return
    torch_types = {
        tl.bfloat16: torch.bfloat16,
        tl.float8e4nv: torch.float8_e4m3fn,
        tl.float8e4b8: torch.float8_e4m3fnuz,
    }
    create_dot, fp_to_fp = InterpreterBuilder.create_dot, InterpreterBuilder.create_fp_to_fp
    fp_trunc, si_to_fp = InterpreterBuilder.create_fp_trunc, InterpreterBuilder.create_si_to_fp

    def widen(operand: TensorHandle) -> TensorHandle:
        if operand.dtype.scalar != tl.bfloat16:
            return operand
        bits = operand.data.view(np.uint16).astype(np.uint32) << 16
        return TensorHandle(bits.view(np.float32), tl.float32)

    def dot(self, a, b, d, *rest):  # type: ignore[no-untyped-def]
        return create_dot(self, widen(a), widen(b), d, *rest)

    def narrow(source: Any, target: Any) -> Any:
        """Round to nearest even by torch; None where the interpreter's own conversion is right."""
        kind = torch_types.get(target.scalar)
        if kind is None or source.dtype.scalar not in (tl.float32, tl.int8):
            return None
        value = torch.from_numpy(np.ascontiguousarray(source.data)).to(kind)
        bits = value.view(torch.uint16 if kind == torch.bfloat16 else torch.uint8).numpy()
        return TensorHandle(bits.reshape(source.data.shape), target.scalar)

    def to_fp(self, source, target, *rest):  # type: ignore[no-untyped-def]
        narrowed = narrow(source, target)
        return fp_to_fp(self, source, target, *rest) if narrowed is None else narrowed

    def trunc(self, source, target):  # type: ignore[no-untyped-def]
        narrowed = narrow(source, target)
        return fp_trunc(self, source, target) if narrowed is None else narrowed

    def from_int(self, source, target):  # type: ignore[no-untyped-def]
        narrowed = narrow(source, target)
        return si_to_fp(self, source, target) if narrowed is None else narrowed

    tl.extra.cuda.gdc_wait = tl.extra.cuda.gdc_launch_dependents = lambda: None
    InterpreterBuilder.create_dot = dot
    InterpreterBuilder.create_si_to_fp = from_int
    InterpreterBuilder.create_fp_to_fp = to_fp
    InterpreterBuilder.create_fp_trunc = trunc
    InterpreterBuilder.repaired = True
