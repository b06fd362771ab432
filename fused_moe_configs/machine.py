"""What this machine has, asked without importing torch or triton wherever package metadata can tell."""

from __future__ import annotations

import sys
from importlib import metadata

TRITONS = ("triton", "pytorch-triton", "pytorch-triton-rocm", "pytorch-triton-xpu", "triton-rocm", "triton-windows")


def version_of(package: str) -> str | None:
    """The version that is loaded, or else installed; None where there is none."""
    loaded = getattr(sys.modules.get(package), "__version__", None)
    for name in (TRITONS if package == "triton" else (package,)) if loaded is None else ():
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return loaded


def device_name() -> str:
    """What the driver calls this machine's GPU. Imports torch. RuntimeError: no torch, or no GPU."""
    fix = "Fix: pass device_name (--device-name), as the driver of the GPU reports it"
    try:
        import torch

        gpus = torch.cuda if torch.cuda.is_available() else torch.xpu
        return str(gpus.get_device_name())
    except Exception as error:  # a torch that does not fit the machine fails in many ways
        reason = str(error).split("\n")[0]
        raise RuntimeError(f"device_name: expected a GPU that torch can name, found none: {reason}. {fix}") from error
