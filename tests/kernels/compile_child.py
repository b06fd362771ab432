"""Compiles launches of `kernels.launch` for a GPU that isn't there, in a process without TRITON_INTERPRET.

stdin: a JSON list of cases as `test_compile.py` writes them. stdout: a JSON list with, for each, the shared memory
in bytes, the hash of the compiled kernel and how many kernels Triton's own cache holds by then.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase

from kernels.fused_moe_kernel import fused_moe_kernel
from kernels.launch import binary_key, plan_launch, pointer_stand_ins
from kernels.launch_config import LaunchConfig
from kernels.problem import QuantMode, Routing, up_and_down


class NoGPU(DriverBase):
    """Says which GPU to compile for; everything that would touch one is a stub."""

    def __init__(self, arch: str) -> None:
        super().__init__()
        self.arch = arch

    @classmethod
    def is_active(cls) -> bool:
        return True

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty

    def get_current_target(self) -> GPUTarget:
        if self.arch.startswith("gfx"):
            return GPUTarget("hip", self.arch, 64)
        return GPUTarget("cuda", int(self.arch.removeprefix("sm")), 32)

    def get_current_device(self) -> str:
        return self.arch

    def get_current_stream(self, device: Any = None) -> int:
        return 0

    def get_active_torch_device(self) -> Any:
        raise NotImplementedError

    def get_benchmarker(self) -> Any:
        raise NotImplementedError


def compile_case(case: dict[str, Any]) -> dict[str, Any]:
    arch = case["arch"]
    triton.runtime.driver.set_active(NoGPU(arch))
    quant = QuantMode(
        case["dtype"], per_channel=case["per_channel"], block_shape=tuple(case["block_shape"] or ()) or None
    )
    projection = up_and_down(*case["layer"], has_bias=case["bias"])[case["projection"]]
    routing = Routing(case["num_tokens"], case["layer"][3], case["layer"][0])
    config = LaunchConfig.from_entry(case["config"])
    pointers = pointer_stand_ins(projection, routing, quant, config, arch, lambda name: getattr(tl, name))
    launch = plan_launch(projection, routing, quant, config, arch, pointers)
    compiled = fused_moe_kernel.warmup(*launch.args, grid=launch.grid, **launch.kwargs)
    return {
        "smem_bytes": compiled.metadata.shared,
        "hash": compiled.hash,
        "key": repr(binary_key(projection, routing, quant, config, arch)),
        "cached": sum(len(entry[0]) for entry in fused_moe_kernel.device_caches.values()),
    }


if __name__ == "__main__":
    json.dump([compile_case(case) for case in json.load(sys.stdin)], sys.stdout)
