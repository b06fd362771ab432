"""An engine as it is unpacked from its wheel: tuned files, a kernel that nothing runs, and the package's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kernels.problem import Flavour
from tests.builders import entry
from tools.launch.engine_package import KERNEL_MODULES, LOOK_UP_MODULES

H100 = "NVIDIA H100 80GB HBM3"
MIXTRAL = "E=8,N=7168,device_name=NVIDIA_H100_80GB_HBM3.json"
QWEN = "E=128,N=768,device_name=NVIDIA_H100_80GB_HBM3.json"
DEEPSEEK = "E=256,N=128,device_name=NVIDIA_H100_80GB_HBM3,dtype=fp8_w8a8,block_shape=[128, 128].json"


def down_of(name: str) -> str:
    return f"{name.removesuffix('.json')}_down.json"


def unpacked(root: Path, flavour: Flavour, files: Mapping[str, Mapping[str, Any] | str]) -> Path:
    """files: by path below the engine's folder, documents, or text that is none. Returns the root."""
    module = LOOK_UP_MODULES[flavour][0]
    configs = (root / module).parent / "configs"
    configs.mkdir(parents=True)
    kernel = root / KERNEL_MODULES[flavour]
    kernel.parent.mkdir(parents=True, exist_ok=True)
    for path in (root / module, kernel):
        path.write_text("", "utf-8")
    metadata = root / f"{flavour}-1.2.3.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.4\nName: {flavour}\nVersion: 1.2.3\n", "utf-8")
    for name, document in files.items():
        path = configs / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(document if isinstance(document, str) else json.dumps(document), "utf-8")
    return root


def rows(*batch_sizes: int, **changes: Any) -> dict[str, Any]:
    """A tuned file's document."""
    return {str(num_tokens): entry(**changes) for num_tokens in batch_sizes}
