"""An active Triton driver for a GPU that isn't there.

With it the JIT's own `warmup` derives the specialisation and compiles, exactly as it would for a launch on that GPU:
the results lie in Triton's cache under the very keys that a process with the GPU then looks up. Triton 3.6.0 to 3.9.0.
"""

from __future__ import annotations

from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase

from tools.registry.devices import Target


class NoGPU(DriverBase):  # type: ignore[misc]  # Triton carries no types
    """Answers which GPU to compile for. Whatever would touch one raises."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self._target = GPUTarget(*target)

    @classmethod
    def is_active(cls) -> bool:
        return True

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> str:
        # The JIT keeps one table of kernels a device: two targets must not share one.
        return f"{self._target.backend}:{self._target.arch}"

    def get_current_stream(self, device: Any = None) -> int:  # noqa: ARG002  # the interface's argument
        return 0

    def map_python_to_cpp_type(self, ty: str) -> str:
        raise NotImplementedError(f"no GPU to launch on: {ty} has no C++ type")

    def get_active_torch_device(self) -> Any:
        raise NotImplementedError("no GPU: there is no torch device")

    def get_benchmarker(self) -> Any:
        raise NotImplementedError("no GPU: nothing can be timed")


def activate(target: Target) -> None:
    """Makes this process compile for `target`. A process that launches kernels must never call it."""
    triton.runtime.driver.set_active(NoGPU(target))
