"""Where figures were measured: driver, torch, Triton and GPU, as a record has it. Imports neither torch nor triton."""

from __future__ import annotations

import dataclasses
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tools.store.strict_json import Json


@dataclass(frozen=True)
class Environment:
    """A record's `environment`, see schema/record.schema.json.

    device_name: as the driver reports it. compute_capability: as in 9.0; gfx942 on AMD. sm_count: multiprocessors or
    compute units. driver None: it can't be read. cuda: CUDA or ROCm version that torch was built with.
    """

    device_name: str
    compute_capability: str
    sm_count: int
    driver: str | None
    cuda: str | None
    torch: str
    triton: str
    python: str

    @classmethod
    def here(cls, torch: Any, triton: Any) -> Environment:
        """Of this process and its current GPU. torch and triton: the modules."""
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        is_rocm = torch.version.hip is not None
        capability = f"{properties.major}.{properties.minor}"
        return cls(
            device_name=torch.cuda.get_device_name(),
            compute_capability=properties.gcnArchName.split(":")[0] if is_rocm else capability,
            sm_count=properties.multi_processor_count,
            driver=None if is_rocm else driver(),
            cuda=torch.version.hip if is_rocm else torch.version.cuda,
            torch=str(torch.__version__),
            triton=str(triton.__version__),
            python=platform.python_version(),
        )

    @classmethod
    def read(cls, document: Json) -> Environment:
        """From JSON. ValueError: a field is missing, unknown or of another type."""
        if not isinstance(document, Mapping) or set(document) != set(_KINDS):
            found = ", ".join(sorted(document)) if isinstance(document, Mapping) else repr(document)
            raise ValueError(f"environment: expected {', '.join(_KINDS)}, found {found:.200}")
        for name, (kind, expected) in _KINDS.items():
            if not isinstance(document[name], kind):
                raise ValueError(f"environment.{name}: expected {expected}, found {document[name]!r:.80}")
        return cls(**document)

    def to_json(self) -> dict[str, Json]:
        """As the schema has it, in its order."""
        return dataclasses.asdict(self)


_TEXT, _TEXT_OR_NULL = (str, "a text"), (str | None, "a text or null")
_KINDS: Mapping[str, tuple[Any, str]] = {
    "device_name": _TEXT,
    "compute_capability": _TEXT,
    "sm_count": (int, "a whole number"),
    "driver": _TEXT_OR_NULL,
    "cuda": _TEXT_OR_NULL,
    "torch": _TEXT,
    "triton": _TEXT,
    "python": _TEXT,
}


def driver() -> str | None:
    """NVIDIA's driver's version. None: it can't be read."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.split("\n")[0].strip() or None
