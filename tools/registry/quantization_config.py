"""How a checkpoint's quantization_config (or hf_quant_config.json) says that its experts are stored.

Methods, algorithms and their fields as read by vLLM 0.33 (model_executor/layers/quantization: fp8.py, modelopt.py,
compressed_tensors/, quark/), SGLang 0.5.23 (srt/layers/quantization/) and transformers 5.24
(utils/quantization_config.py). What is not known here is refused by the name of its field, never guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from tools.registry.expert_modules import Experts, Share, share
from tools.registry.models import Quantisation
from tools.registry.reading import RegistryError
from tools.text import shown

SAY_DTYPE = (
    "say how the experts are stored: --dtype fp8_w8a8, with --block-shape n,k or --per-channel-quant for such scales"
)

Fields = Mapping[str, Any]


class ConfigJsonError(RegistryError):
    """A config.json that doesn't say, or not in words that are known, what a workload depends on."""


def experts_quantisation(fields: Fields, where: str, experts: Experts) -> Quantisation | None:
    """None: the experts are not quantised. where: the fields' own name, for errors. ConfigJsonError: not known."""
    method = fields.get("quant_method", "modelopt" if "quant_algo" in fields else None)
    read = _METHODS.get(str(method).casefold())
    if read is None:
        known = ", ".join(sorted(_METHODS))
        raise ConfigJsonError(f"{where}.quant_method: expected one of {known}, found {found(method)}", SAY_DTYPE)
    if _are_excluded(fields, where, experts):
        return None
    return read(fields, where, experts)


def by_algorithm(name: str, where: str, group_size: object = None) -> Quantisation:
    """ModelOpt's `quant_algo`, and `moe_quant_algo` of a checkpoint with experts of their own kind."""
    algorithm = name.upper()
    if algorithm in ("FP8_PB_WO", "FP8_BLOCK_SCALES"):
        side = group_size if isinstance(group_size, int) and group_size > 0 else 128
        return Quantisation("fp8_w8a8", (side, side))
    if algorithm not in _ALGORITHMS:
        known = ", ".join(sorted({*_ALGORITHMS, "FP8_PB_WO"}))
        raise ConfigJsonError(f"{where}: expected one of {known}, found {found(name)}", SAY_DTYPE)
    return _ALGORITHMS[algorithm]


_PER_CHANNEL = Quantisation("fp8_w8a8", per_channel_quant=True)
_INT8 = Quantisation("int8_w8a8", per_channel_quant=True)
_STATIC = Quantisation("fp8_w8a8", activation_scales="static")

_ALGORITHMS: Mapping[str, Quantisation] = {
    "FP8": _STATIC,
    "FP8_PER_CHANNEL_PER_TOKEN": _PER_CHANNEL,
    "INT4_AWQ": Quantisation("int4_w4a16"),
    "MXFP4": Quantisation("mxfp4"),
    "MXFP8": Quantisation("mxfp8"),
    "NVFP4": Quantisation("nvfp4"),
    "NVFP4_AWQ": Quantisation("nvfp4"),
    "W4A16_AWQ": Quantisation("int4_w4a16"),
    "W4A16_NVFP4": Quantisation("nvfp4"),
}


def found(value: object) -> str:
    """A value of a config.json as errors show it: in JSON's words, a text in single quotes."""
    try:
        return shown(repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    except (ValueError, RecursionError):  # Python prints no integer of over 4300 digits
        return "a value too large to show"


def block_of(value: object, where: str) -> tuple[int, int]:
    """[block_n, block_k], also as compressed-tensors' older text «128x128»."""
    sides = value.split("x") if isinstance(value, str) else value
    if isinstance(sides, list) and len(sides) == 2:
        numbers = [int(side) if isinstance(side, str) and side.isdecimal() else side for side in sides]
        if all(type(side) is int and 16 <= side <= 1024 for side in numbers):
            return numbers[0], numbers[1]
    expected = "two numbers [n,k] from 16 to 1024"
    raise ConfigJsonError(f"{where}: expected {expected}, found {found(value)}", "correct it, or " + SAY_DTYPE)


# ---------------------------------------------------------------
# Methods


def _fp8(fields: Fields, where: str, _experts: Experts) -> Quantisation:
    if fields.get("store_dtype") == "mxfp4":  # MiMo-V2.6: fp8 around 4-bit experts
        return Quantisation("mxfp4")
    for name, value in fields.items():
        if value and ((name == "store_dtype" and value != "fp8") or re.search("fp4|int4", name)):
            reason = f"{where}.{name}: expected none beside fp8, found {found(value)}"
            raise ConfigJsonError(reason, SAY_DTYPE)
    if fields.get("weight_block_size") is not None:
        return Quantisation("fp8_w8a8", block_of(fields["weight_block_size"], f"{where}.weight_block_size"))
    scheme = fields.get("activation_scheme") or "dynamic"
    if scheme not in ("static", "dynamic"):
        reason = f"{where}.activation_scheme: expected static or dynamic, found {found(scheme)}"
        raise ConfigJsonError(reason, SAY_DTYPE)
    return Quantisation("fp8_w8a8", activation_scales=scheme)


def _always(quantisation: Quantisation) -> Callable[[Fields, str, Experts], Quantisation]:
    return lambda _fields, _where, _experts: quantisation


def _int4(fields: Fields, where: str, _experts: Experts) -> Quantisation:
    bits = fields.get("bits", fields.get("w_bit", 4))
    if bits == 4:
        return Quantisation("int4_w4a16")
    method = fields.get("quant_method")
    raise _another_kernel(where, f"{found(method)} with {found(bits)} bits")


def _foreign(fields: Fields, where: str, _experts: Experts) -> Quantisation:
    raise _another_kernel(where, found(fields.get("quant_method")))


def _another_kernel(where: str, what: str) -> ConfigJsonError:
    reason = f"{where}: {what} runs another kernel than the fused MoE Triton kernel: there is nothing to tune"
    return ConfigJsonError(reason)


def _modelopt(fields: Fields, where: str, experts: Experts) -> Quantisation | None:
    algorithm = fields.get("quant_algo")
    if algorithm is None:  # of keys and values alone
        return None
    if str(algorithm).upper() != "MIXED_PRECISION":
        return by_algorithm(str(algorithm), f"{where}.quant_algo", fields.get("group_size"))
    layers = fields.get("quantized_layers")
    if not isinstance(layers, Mapping) or not layers:
        reason = f"{where}.quantized_layers: expected modules and their algorithms with MIXED_PRECISION, found none"
        raise ConfigJsonError(reason, f"put hf_quant_config.json beside the file, or {SAY_DTYPE}")
    by_kind: dict[tuple[str, object], list[str]] = {}
    for module, layer in layers.items():
        if not isinstance(layer, Mapping):
            reason = f"{where}.quantized_layers.{module}: expected an algorithm, found {found(layer)}"
            raise ConfigJsonError(reason, SAY_DTYPE)
        kind = str(layer.get("quant_algo")), repr(layer.get("group_size"))
        by_kind.setdefault(kind, []).append(module)
    shares = {kind: share(modules, experts) for kind, modules in by_kind.items()}
    of_experts = [kind for kind, part in shares.items() if part is not Share.NONE]
    if not of_experts:
        return None
    if len(of_experts) > 1:
        raise _mixed(f"{where}.quantized_layers")
    # Layers that aren't listed have no experts: a hybrid's attention and Mamba, the first dense ones.
    first = layers[by_kind[of_experts[0]][0]]
    if str(first.get("quant_algo")).upper() in ("NONE", "UNQUANTIZED"):
        return None
    return by_algorithm(str(first.get("quant_algo")), f"{where}.quantized_layers, quant_algo", first.get("group_size"))


def _compressed_tensors(fields: Fields, where: str, experts: Experts) -> Quantisation | None:
    groups = fields.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise ConfigJsonError(f"{where}.config_groups: expected groups of modules, found {found(groups)}", SAY_DTYPE)
    by_class: list[str] = []
    for name, group in groups.items():
        place = f"{where}.config_groups.{name}"
        targets = group.get("targets") if isinstance(group, Mapping) else None
        if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
            reason = f"{place}.targets: expected names of modules, found {found(targets)}"
            raise ConfigJsonError(reason, SAY_DTYPE)
        # A module's name counts before its class.
        named = share(targets, experts)
        if named is Share.SOME:
            raise _mixed(f"{place}.targets")
        if named is Share.ALL:
            return _group(group, place)
        if any(target == "Linear" or target.endswith(("Experts", "FusedMoE", "MoE")) for target in targets):
            by_class.append(name)
    if len(by_class) > 1:
        raise _mixed(f"{where}.config_groups")
    return _group(groups[by_class[0]], f"{where}.config_groups.{by_class[0]}") if by_class else None


def _group(group: Fields, where: str) -> Quantisation:
    """One scheme. Combinations as vLLM's compressed_tensors_moe.py takes them."""
    weights, inputs = group.get("weights"), group.get("input_activations")
    if not isinstance(weights, Mapping) or not isinstance(inputs, Mapping | None):
        raise ConfigJsonError(f"{where}.weights: expected a scheme, found {found(weights)}", SAY_DTYPE)
    kind, bits, strategy = weights.get("type"), weights.get("num_bits"), weights.get("strategy")
    size = weights.get("group_size")
    match (kind, bits, strategy):
        case ("float", 4, _) if size in (16, 32):
            return Quantisation("nvfp4" if size == 16 else "mxfp4")
        case ("float", 8, "group") if size == 32:
            return Quantisation("mxfp8")
        case ("float", 8, "block") if inputs and inputs.get("dynamic"):
            return Quantisation(
                "fp8_w8a8", block_of(weights.get("block_structure"), f"{where}.weights.block_structure")
            )
        case ("float", 8, "channel") if inputs and inputs.get("dynamic") and inputs.get("strategy") == "token":
            return _PER_CHANNEL
        case ("float", 8, "tensor") if inputs and inputs.get("strategy") == "tensor":
            return Quantisation("fp8_w8a8", activation_scales="dynamic" if inputs.get("dynamic") else "static")
        case ("int", 8, "channel") if inputs and inputs.get("dynamic") and inputs.get("strategy") == "token":
            return _INT8
        case ("int", 4, "group" | "channel") if inputs is None:
            return Quantisation("int4_w4a16")
        case ("int", 4 | 8, "group" | "channel") if inputs is None or bits == 4:
            raise _another_kernel(where, f"int{bits} in {strategy}s")
    activations = inputs and {key: inputs.get(key) for key in ("type", "num_bits", "strategy", "dynamic")}
    scheme = {"type": kind, "num_bits": bits, "strategy": strategy, "group_size": size}
    reason = f"{where}: expected a scheme of fp8 or int8 weights and activations that both engines run, found weights "
    raise ConfigJsonError(f"{reason}{found(scheme)}, input_activations {found(activations)}", SAY_DTYPE)


def _quark(fields: Fields, where: str, experts: Experts) -> Quantisation | None:
    """AMD's. Layers of their own kind count only where they are experts."""
    own = fields.get("layer_quant_config") or {}
    if not isinstance(own, Mapping):
        reason = f"{where}.layer_quant_config: expected modules and their schemes, found {found(own)}"
        raise ConfigJsonError(reason, SAY_DTYPE)
    hits = [pattern for pattern in own if share([pattern], experts) is not Share.NONE]
    if hits and (share(hits, experts) is not Share.ALL or any(own[hit] != own[hits[0]] for hit in hits)):
        raise _mixed(f"{where}.layer_quant_config")
    place = f"{where}.layer_quant_config" if hits else f"{where}.global_quant_config"
    scheme = own[hits[0]] if hits else fields.get("global_quant_config")
    weight = scheme.get("weight") if isinstance(scheme, Mapping) else None
    inputs = scheme.get("input_tensors") if isinstance(scheme, Mapping) else None
    if scheme is not None and isinstance(weight, Mapping) and isinstance(inputs, Mapping | None):
        is_dynamic = bool(inputs and inputs.get("is_dynamic"))
        match (weight.get("dtype"), weight.get("qscheme")):
            case ("fp8_e4m3", "per_tensor") if inputs:
                return Quantisation("fp8_w8a8", activation_scales="dynamic" if is_dynamic else "static")
            case ("fp8_e4m3", "per_channel") if is_dynamic:
                return _PER_CHANNEL
            case ("fp4", "per_group") if weight.get("group_size") in (16, 32):
                return Quantisation("nvfp4" if weight["group_size"] == 16 else "mxfp4")
            case ("int4" | "uint4", _) if inputs is None:
                return Quantisation("int4_w4a16")
            case ("int8", "per_channel") if is_dynamic:
                return _INT8
    reason = f"{place}: expected fp8_e4m3 per_tensor or per_channel, fp4 or int8, found {found(scheme)}"
    raise ConfigJsonError(reason, SAY_DTYPE)


_METHODS: Mapping[str, Callable[[Fields, str, Experts], Quantisation | None]] = {
    "auto-round": _int4,
    "awq": _int4,
    "awq_marlin": _int4,
    "bitsandbytes": _foreign,
    "compressed-tensors": _compressed_tensors,
    "deepseek_v4_fp8": _fp8,
    "experts_int8": _always(Quantisation("int8_w8a16")),
    "fp8": _fp8,
    "gguf": _foreign,
    "gptq": _int4,
    "gptq_marlin": _int4,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "modelopt_fp8": _modelopt,
    "modelopt_mixed": _modelopt,
    "modelopt_mxfp8": _modelopt,
    "moe_wna16": _int4,
    "mxfp4": _always(Quantisation("mxfp4")),
    "mxfp8": _always(Quantisation("mxfp8")),
    "nvfp4": _always(Quantisation("nvfp4")),
    "quark": _quark,
    "w8a8_fp8": _always(_PER_CHANNEL),
    "w8a8_int8": _always(_INT8),
}


# ---------------------------------------------------------------
# Modules that are left out

_EXCLUSIONS = ("ignore", "ignored_layers", "modules_to_not_convert", "exclude_modules", "exclude")


def _are_excluded(fields: Fields, where: str, experts: Experts) -> bool:
    for name in _EXCLUSIONS:
        patterns = fields.get(name)
        if patterns is None:
            continue
        if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
            raise ConfigJsonError(f"{where}.{name}: expected names of modules, found {found(patterns)}", SAY_DTYPE)
        left_out = share(patterns, experts)
        if left_out is Share.SOME:
            raise _mixed(f"{where}.{name}")
        if left_out is Share.ALL:
            return True
    # GPTQ's own way to leave modules out.
    dynamic = fields.get("dynamic")
    negative = [pattern for pattern in dynamic if pattern.startswith("-:")] if isinstance(dynamic, Mapping) else []
    if share(negative, experts) is Share.SOME:
        raise _mixed(f"{where}.dynamic")
    return share(negative, experts) is Share.ALL


def _mixed(where: str) -> ConfigJsonError:
    return ConfigJsonError(f"{where}: expected experts of one kind, found some that are stored otherwise", SAY_DTYPE)
