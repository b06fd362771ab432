"""Compiles launches of `kernels.launch` for a GPU that isn't there, in a process without TRITON_INTERPRET.

stdin: a JSON list of cases as `test_compile.py` writes them. stdout: a JSON list with, for each, the shared memory
in bytes, the hash of the compiled kernel and how many kernels Triton's own cache holds by then.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import triton.language as tl

from kernels.fused_moe_kernel import fused_moe_kernel
from kernels.launch import binary_key, plan_launch, pointer_stand_ins
from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour, Problem, QuantMode, Routing, up_and_down
from tools.compile.no_gpu import activate
from tools.registry.devices import Target

TARGETS = {"sm80": Target("cuda", 80, 32), "sm90": Target("cuda", 90, 32), "gfx942": Target("hip", "gfx942", 64)}


def compile_case(case: dict[str, Any]) -> dict[str, Any]:
    arch = case["arch"]
    activate(TARGETS[arch])
    quant = QuantMode(
        case["dtype"], per_channel=case["per_channel"], block_shape=tuple(case["block_shape"] or ()) or None
    )
    projection = up_and_down(*case["layer"], has_bias=case["bias"])[case["projection"]]
    routing = Routing(case["num_tokens"], case["layer"][3], case["layer"][0], flavour=Flavour(case["flavour"]))
    config = LaunchConfig.from_entry(case["config"])
    problem = Problem(projection, routing, quant, config, arch)
    launch = plan_launch(problem, pointer_stand_ins(problem, lambda name: getattr(tl, name)))
    compiled = fused_moe_kernel.warmup(*launch.args, grid=launch.grid, **launch.kwargs)
    return {
        "smem_bytes": compiled.metadata.shared,
        "hash": compiled.hash,
        "key": repr(binary_key(problem)),
        "cached": sum(len(entry[0]) for entry in fused_moe_kernel.device_caches.values()),
    }


if __name__ == "__main__":
    json.dump([compile_case(case) for case in json.load(sys.stdin)], sys.stdout)
