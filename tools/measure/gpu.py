"""The GPU of this process and what else a bench must know of the machine. Imports torch when asked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tools.errors import UserError
from tools.measure.layer import LayerShape
from tools.registry.devices import Device, load_devices

BUSY_BYTES = 2 << 30


def torch_with_gpu() -> Any:
    """The torch module. UserError: there is none, or no GPU that it can use."""
    try:
        import torch
    except ImportError as error:
        raise UserError(f"expected torch, found none ({error}). Fix: run on a machine with torch and a GPU.") from error
    if not torch.cuda.is_available() or torch.version.hip is not None:
        raise UserError("expected an NVIDIA GPU, found none that torch can use. Fix: run where there is one.")
    return torch


def find_device(torch: Any) -> tuple[str, Device]:
    """(name as the driver reports it, its entry). UserError: an unknown one, or none of NVIDIA's."""
    reported = torch.cuda.get_device_name()
    device = load_devices().get(reported)
    if device is None or device.target is None or device.target.backend != "cuda" or not device.smem_bytes_per_block:
        raise UserError(f"device: expected an NVIDIA GPU of configs/registry/devices.json, found {reported!r}.")
    return reported, device


def check_memory(torch: Any, wanted: Iterable[tuple[str, LayerShape, int]]) -> tuple[str, ...]:
    """wanted: (title, shape, largest batch size). Returns notes. UserError: more than is free."""
    free, total = torch.cuda.mem_get_info()
    for title, shape, num_tokens in wanted:
        need = shape.memory_bytes(num_tokens)
        if need > free:
            raise UserError(
                f"{title}: expected {need / 2**30:.1f} GiB of free GPU memory, found {free / 2**30:.1f}. "
                "Fix: a larger tp or ep, or fewer tokens."
            )
    if total - free > BUSY_BYTES:
        used = f"{(total - free) / 2**30:.1f} GiB of the GPU were in use at the start"
        return (f"{used}: another process uses the GPU; timings may be noisy.",)
    return ()
