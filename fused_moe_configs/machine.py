"""This machine's GPU, Triton and engines, without importing torch or triton wherever package metadata can tell."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

from .lookup import USER_FOLDER, ConfigError, counted, printable, read_config

VARIABLES = {"vllm": USER_FOLDER, "sglang": "SGLANG_MOE_CONFIG_DIR"}
"""What says where an engine looks for tuned files."""
_FILES = {"vllm": "*.json", "sglang": "configs/triton_*/*.json"}
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
    try:
        import torch

        for gpus in (torch.cuda, getattr(torch, "xpu", None)):
            if gpus and gpus.is_available():
                return str(gpus.get_device_name())
        reason = "torch finds none"
    except ImportError:
        reason = "torch, which names it, is not installed"
    except Exception as error:  # a torch that does not fit the machine fails in many ways
        reason = f"torch says: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    wish = f"device_name: expected a GPU on this machine, found none: {reason}"
    raise RuntimeError(f"{wish}. Fix: pass device_name (--device-name), as the driver of the GPU reports it")


def engine_folders() -> dict[str, str]:
    """What each engine's variable points at: the folder and how many tuned files it holds, or why none can be read.

    How many of them are broken, and what is wrong with the first one.
    """
    from .naming import parse  # who asks for the GPU's name alone needs no registry

    found = {}
    for engine, variable in VARIABLES.items():
        found[variable], pattern = "not set", _FILES[engine]
        if folder := os.environ.get(variable):
            try:
                next(Path(folder).iterdir(), None)  # glob finds nothing where nothing can be read
                files = [path for path in Path(folder).glob(pattern) if not path.name.startswith(".")]
                found[variable] = f"{printable(folder)}: {counted(len(files), 'file')} {pattern}"
                # Of this kernel; others' rows have other keys.
                faults = [*filter(None, map(_fault, sorted(path for path in files if parse(path.name, engine))))]
                if faults:
                    found[variable] += f", {len(faults)} broken{', the first' * (len(faults) > 1)}: {faults[0]}"
            except OSError as error:
                found[variable] = f"{printable(folder)}: cannot be read: {error.strerror}"
    return found


def _fault(path: Path) -> ConfigError | None:
    """What is wrong with a user's file; None: nothing."""
    try:
        read_config(path, is_users=True)
    except ConfigError as error:
        return error
    return None
