"""One kernel to compile: our `fused_moe_kernel` for a projection, launch config and GPU. Pickles into the pool."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from kernels.launch import (
    Projection,
    QuantMode,
    Routing,
    binary_key,
    plan_launch,
    pointer_stand_ins,
)
from kernels.launch_config import LaunchConfig
from tools.compile.outcome import ConstraintError
from tools.registry.devices import Target


@dataclass(frozen=True)
class KernelTask:
    """What one launch compiles. `key` is equal for launches that share a binary."""

    projection: Projection
    routing: Routing
    quant: QuantMode
    config: LaunchConfig
    target: Target

    @property
    def arch(self) -> str:
        """As `kernels.launch` spells it: sm90, gfx942."""
        return f"sm{self.target.arch}" if self.target.backend == "cuda" else str(self.target.arch)

    @property
    def key(self) -> Hashable:
        """What tells one binary from another. ValueError where a rule forbids the launch."""
        return binary_key(self.projection, self.routing, self.quant, self.config, self.arch)

    def compile(self) -> Any:
        """Triton's `CompiledKernel`, through the JIT's own `warmup`. ConstraintError: a rule forbids the launch."""
        import triton.language as tl

        from kernels.fused_moe_kernel import fused_moe_kernel

        problem = (self.projection, self.routing, self.quant, self.config, self.arch)
        try:
            pointers = pointer_stand_ins(*problem, to_dtype=lambda name: getattr(tl, name))
            launch = plan_launch(*problem, pointers=pointers)
        except ValueError as error:
            raise ConstraintError(str(error)) from error
        return fused_moe_kernel.warmup(*launch.args, grid=launch.grid, **launch.kwargs)
