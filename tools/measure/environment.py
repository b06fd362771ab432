"""Where figures are measured: driver, torch, Triton and GPU of this process. Imports neither torch nor triton."""

from __future__ import annotations

import platform
import subprocess
from typing import Any

from tools.store.record import Environment


def environment_here(torch: Any, triton: Any) -> Environment:
    """Of this process and its current GPU. torch and triton: the modules."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    is_rocm = torch.version.hip is not None
    capability = f"{properties.major}.{properties.minor}"
    return Environment(
        device_name=torch.cuda.get_device_name(),
        compute_capability=properties.gcnArchName.split(":")[0] if is_rocm else capability,
        sm_count=properties.multi_processor_count,
        driver=None if is_rocm else driver(),
        cuda=torch.version.hip if is_rocm else torch.version.cuda,
        torch=str(torch.__version__),
        triton=str(triton.__version__),
        python=platform.python_version(),
    )


def as_text(environment: Environment) -> dict[str, str]:
    """What a report says of it, by name; «unknown» what can't be read."""
    names = {"device_name": "device"}
    return {names.get(name, name): str(value or "unknown") for name, value in vars(environment).items()}


def driver() -> str | None:
    """NVIDIA's driver's version. None: it can't be read."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.split("\n")[0].strip() or None
