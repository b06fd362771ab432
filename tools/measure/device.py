"""Which GPU is here, asked without importing torch: that takes seconds, and a context disturbs what is measured."""

from __future__ import annotations

import os
import subprocess
import sys

_ASK_TORCH = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"


def find_gpu() -> str | None:
    """The first visible GPU's name as its driver reports it. None: there is none that torch could use."""
    name = _ask(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", *_visible()])
    # AMD has no tool that prints the very name torch reports.
    return name or _ask([sys.executable, "-c", _ASK_TORCH])


def _visible() -> list[str]:
    """nvidia-smi lists hidden GPUs as well."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return [f"--id={first}"] if first else ["--id=none"]


def _ask(command: list[str]) -> str | None:
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.split("\n")[0].strip() or None
