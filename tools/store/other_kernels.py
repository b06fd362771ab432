"""Files of other kernels that share a folder with the tuned files of the fused MoE Triton kernel, told apart by name.

Names as vLLM 0.33 (lora/ops/triton_ops/utils.py, mamba_ssm.py, fp8_utils.py, fused_flydsl_moe.py) and SGLang 0.5.23
(kernels/ops/lora, lora/moe/base_gemm_provider, kernels/ops/moe/moe_front.py, triton_utils/configs) write them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tools.text import printable


@dataclass(frozen=True)
class _Kind:
    name: re.Pattern[str]
    kernel: str


def _kind(name: str, kernel: str) -> _Kind:
    return _Kind(re.compile(name), kernel)


_KINDS = (  # the first that fits; {} in a kernel stands for the name's group
    _kind(
        r".*_(?:SHRINK|EXPAND(?:_TRUE|_FALSE)?|FUSED_MOE_LORA_W(?:13|2)_(?:SHRINK|EXPAND))\.json", "vLLM's LoRA kernels"
    ),
    _kind(r"lora_(?:shrink|expand),.*\.json", "SGLang's LoRA kernels"),
    _kind(r"provider=.*\.json|(?:default|sm[0-9]+)\.plans\.json", "SGLang's LoRA kernels"),
    _kind(r"headdim=.*\.json", "vLLM's Mamba kernel (selective_state_update)"),
    _kind(r"(?i:.*gemv.*)\.json", "a GEMV kernel of linear layers"),
    _kind(r"N=[^,]*,K=.*\.json", "the quantised linear layers' kernel"),
    _kind(r"E=.*,backend=([^,]*)\.json", "the backend {}, another MoE kernel"),
    _kind(r"(?:strategy|epilogue),E=.*,topk=.*\.json", "SGLang's MoE router kernels"),
    _kind(r".*_compact_moe\.json", "SGLang's compact MoE kernel"),
    _kind(r"(?:causal_conv1d_fwd|update_sconv_cache).*\.json", "SGLang's short convolution kernels"),
    _kind(r"world=.*,H=.*\.json", "SGLang's collective kernels"),
)


def other_kernel(file_name: str) -> str | None:
    """The kernel, as in a sentence, whose file has this name; None: a tuned file of ours, or no name that is known."""
    for kind in _KINDS:
        if found := kind.name.fullmatch(file_name):
            return kind.kernel.format(*(printable(part) for part in found.groups()))
    return None
