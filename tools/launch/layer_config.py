"""What a layer launches: a config for up and one for down, as an engine makes them of the entries that it reads."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tools.launch.heuristics import clamped
from tools.store.workload import Workload


@dataclass(frozen=True)
class LayerConfig:
    """Launch configs of a layer's up and down projection, of one BLOCK_SIZE_M: both run over one alignment.

    USE_TMA is SGLang's: up's loads w1 through a tensor descriptor; down's loads w2 and the activations so, for which
    up stores its rows in the alignment's order. ValueError: two values of BLOCK_SIZE_M.
    """

    up: LaunchConfig
    down: LaunchConfig

    def __post_init__(self) -> None:
        if self.up.BLOCK_SIZE_M != self.down.BLOCK_SIZE_M:
            raise ValueError(
                f"layer config: expected up's BLOCK_SIZE_M {self.up.BLOCK_SIZE_M} for down, found "
                f"{self.down.BLOCK_SIZE_M}. Fix: the same for both."
            )

    @property
    def uses_descriptors(self) -> bool:
        """Whether an entry says USE_TMA, whose path SGLang's own kernel alone has."""
        return self.up.USE_TMA is True or self.down.USE_TMA is True

    @classmethod
    def of(cls, config: LaunchConfig) -> LayerConfig:
        """One config for both."""
        return cls(config, config)


def as_run(flavour: Flavour, workload: Workload, up: LaunchConfig, down: LaunchConfig | None = None) -> LayerConfig:
    """What the engine launches, given the up file's entry and, where there is one, the `_down` file's.

    vLLM 0.33 reads no `_down` file and clamps BLOCK_SIZE_K. SGLang 0.5.23 (fused_moe_triton_config.py,
    `try_get_optimal_moe_config`) sets down's BLOCK_SIZE_M to up's; without a `_down` file down runs up's entry, its
    USE_TMA included, although the log says «without TMA».
    """
    if flavour is Flavour.VLLM:
        return LayerConfig.of(clamped(up, workload))
    return LayerConfig(up, replace(down or up, BLOCK_SIZE_M=up.BLOCK_SIZE_M))
