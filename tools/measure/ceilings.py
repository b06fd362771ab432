"""What the card reaches at best, measured in the same run: memory traffic and dense products. Needs a GPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tools.measure.timing import Launch, capture, measure

_TRAFFIC_BYTES = 2 << 30
_READ_ROW = 4096
_DENSE = 8192


@dataclass(frozen=True)
class Ceilings:
    """memory: the faster of copying (bytes read plus written) and reading, which is what decode does.

    dense: products of 8192x8192x8192 on random data. fp8 may be twice bf16's.
    """

    memory_bytes_per_s: float
    dense_bf16_per_s: float
    dense_8bit_per_s: float
    dense_8bit_measured: bool

    def dense_per_s(self, operand_bits: int) -> float:
        return self.dense_8bit_per_s if operand_bits == 8 else self.dense_bf16_per_s


def measure_ceilings(device: torch.device) -> Ceilings:
    memory_bytes_per_s = max(2 * _TRAFFIC_BYTES / _copy_us(device), _TRAFFIC_BYTES / _read_us(device)) * 1e6
    a, b = (torch.randn((_DENSE, _DENSE), device=device).bfloat16() for _ in range(2))
    out = torch.empty_like(a)
    bf16_us = _time_us(lambda: torch.mm(a, b, out=out))
    operations = 2.0 * _DENSE**3
    bf16_per_s = operations / bf16_us * 1e6
    fp8_us = _fp8_us(a, b)
    fp8_per_s = operations / fp8_us * 1e6 if fp8_us else 2 * bf16_per_s
    return Ceilings(memory_bytes_per_s, bf16_per_s, fp8_per_s, fp8_us is not None)


def _copy_us(device: torch.device) -> float:
    source = torch.randint(0, 255, (_TRAFFIC_BYTES,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return _time_us(lambda: target.copy_(source))


def _read_us(device: torch.device) -> float:
    source = torch.ones((_TRAFFIC_BYTES // 4 // _READ_ROW, _READ_ROW), dtype=torch.float32, device=device)
    sums = torch.empty(source.shape[0], dtype=torch.float32, device=device)
    return _time_us(lambda: torch.sum(source, dim=1, out=sums))


def _fp8_us(a: torch.Tensor, b: torch.Tensor) -> float | None:
    """None where this torch or card has no fp8 product."""
    try:
        left, right = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t()
        one = torch.ones((), device=a.device)
        return _time_us(
            lambda: torch._scaled_mm(
                left, right, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
            )
        )
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return None


def _time_us(launch: Launch) -> float:
    return measure([capture([launch] * 4)])[0].median_us
