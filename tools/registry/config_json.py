"""A checkpoint's config.json from disk: the sizes of its experts, how they are stored, and what the model is called.

Where models keep them is data here: the parts that hold a language model (`VIEWS`) and the names of a field
(`ALIASES`), as transformers 5.24 and the models of vLLM 0.33 and SGLang 0.5.23 spell them. What the reader does not
know it refuses by the name of the field: no size falls through to that of a dense layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools import cli
from tools.errors import reason_of
from tools.registry.expert_modules import Experts
from tools.registry.models import AS_STORED, OTHER_KERNELS, Asked, Model, Quantisation, another_kernel
from tools.registry.quantization_config import (
    SAY_DTYPE,
    ConfigJsonError,
    Fields,
    by_algorithm,
    experts_quantisation,
    found,
)
from tools.store import strict_json
from tools.text import printable

VIEWS = ("text_config", "llm_config", "language_config", "thinker_config")
"""Parts of a multimodal config.json, one in another, in which the language model's fields lie."""

ALIASES: Mapping[str, tuple[str, ...]] = {
    "E": ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "ffn_config.moe_num_experts"),
    "N": ("moe_intermediate_size", "expert_ffn_hidden_size", "expert_hidden_dim", "ffn_config.ffn_hidden_size"),
    "K": ("hidden_size", "d_model"),
    "top_k": (
        "num_experts_per_tok",
        "num_experts_per_token",
        "experts_per_token",
        "top_k_experts",
        "moe_top_k",
        "moe_topk",
        "moe_k",
        "ffn_config.moe_top_k",
    ),
}
"""Names of one field in one view. `top_k` is none: there it is a setting of sampling."""

EXPERTS_HAVE_INTERMEDIATE_SIZE = frozenset(
    {
        *("aria", "aria_text", "arctic", "cohere2_moe", "flex_olmo", "gpt_oss", "granitemoe", "granitemoe_swa"),
        *("granitemoehybrid", "granitemoeshared", "grok-1", "hunyuan_v1_moe", "jamba", "jetmoe", "llama4"),
        *("llama4_text", "minimax", "minimax_m2", "minimax_m3_vl", "minimax_m3_vl_text", "minimax_text_01"),
        *("MiniMaxText01", "mixtral", "olmoe", "phimoe"),
    }
)
"""The `model_type`s whose experts are `intermediate_size` wide. Elsewhere that is a dense layer's size."""

ACTIVATIONS = ("mlp_hidden_act", "hidden_act", "hidden_activation", "activation_function", "ffn_config.ffn_act_fn")

GATED = frozenset(
    {
        *("silu", "swish", "gelu", "gelu_new", "gelu_fast", "gelu_tanh", "gelu_pytorch_tanh", "swiglu", "swigluoai"),
        *("swigluoai_uninterleave", "swiglustep", "situ", "geglu"),
    }
)
"""Functions that a gate is put through, so that the up projection is 2N wide."""

UNGATED = frozenset({"relu", "relu2", "relu_squared", "squared_relu"})
UNGATED_TYPES = frozenset({"nemotron_h", "nemotron_h_puzzle"})

FOUR_BIT_UNLESS_SAID = frozenset({"deepseek_v4", "deepseek_v41"})
"""Both engines take these models' experts for 4-bit ones where `expert_dtype` is missing."""

DENSE_LAYERS = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")

COMPUTE_DTYPES: Mapping[str | None, str] = {
    **dict.fromkeys(("float16", "half", "fp16"), "fp16"),
    **dict.fromkeys(("bfloat16", "bf16", "float32", "auto", None), "bf16"),
}
"""By `dtype` or `torch_dtype`. Engines run float32 checkpoints in 16 bits."""

QUANTISED_IN = ("quantization_config", "compression_config")

OTHER_PARTS = re.compile("vision|visual|image|audio|speech|talker|code|vocoder|mtp|draft|embed")
"""Parts of a config.json that are no language model: how they are quantised says nothing of the experts."""


@dataclass(frozen=True)
class ConfigJson:
    """What a config.json says. model.id is the model's id, or where nothing tells it the file's path.

    dtype_from, gate_from: the fields that say how the experts are stored, and whether they have a gate.
    """

    model: Model
    is_named: bool
    dtype_from: str
    gate_from: str


def read_config_json(
    path: Path, asked: Asked = AS_STORED, model_id: str | None = None, piped: bytes | None = None
) -> ConfigJson:
    """The file, and hf_quant_config.json beside it. model_id: what the model is called, whatever the file says.

    piped: what came through the pipe at this path, as `cli.read_pipe` has it. asked: counts over the checkpoint's own
    quantisation, which need not be known then.
    ConfigJsonError (a RegistryError): unreadable, or something in it is not known.
    """
    document = _json_object(path, piped)
    beside = path.with_name("hf_quant_config.json")
    quantised = _json_object(beside) if beside.is_file() else {}
    name = model_id or id_of(path, document)
    try:
        return _checkpoint(document, quantised, asked, name, path)
    except RecursionError as error:
        reason = "expected a model's config.json, found one that is nested too deep"
        raise ConfigJsonError(reason, "give the checkpoint's own", Path(printable(str(path)))) from error
    except ConfigJsonError as error:
        raise ConfigJsonError(error.reason, error.fix, Path(printable(str(path)))) from error


def _json_object(path: Path, piped: bytes | None = None) -> dict[str, Any]:
    shown = Path(printable(str(path)))
    try:
        text = cli.read_text(path) if piped is None else piped.decode("utf-8-sig")
        document, faults = strict_json.parse(text.encode())
    except (OSError, ValueError) as error:
        why = "text that is not UTF-8" if isinstance(error, UnicodeError) else reason_of(error)
        raise ConfigJsonError(
            f"expected a model's config.json, found: {why}", "give the checkpoint's own", shown
        ) from error
    if document is None and faults:
        reason = f"expected a model's config.json, found: {faults[0].message}"
        raise ConfigJsonError(reason, "give the checkpoint's own", shown)
    if not isinstance(document, dict):
        reason = f"expected an object, found {found(document)}"
        raise ConfigJsonError(reason, "give the checkpoint's own config.json", shown)
    return document


_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)
_FOLDERS = frozenset({"models", "model", "checkpoints", "ckpts", "output", "outputs", "results", "data", "tmp", "home"})
"""First parts of `_name_or_path` that are a folder on some machine and no owner on Hugging Face."""


def is_model_id(text: str) -> bool:
    """Whether it looks like a repository's id on Hugging Face: owner/name."""
    return _ID.fullmatch(text) is not None


def id_of(path: Path, document: Fields) -> str | None:
    """The model's id on Hugging Face; None: nothing tells it. A folder's name, or a snapshot's hash, is none."""
    for part in reversed(path.parent.parts):
        # The layout of Hugging Face's cache.
        kind, owner, *name = part.split("--") if part.startswith("models--") else ("", "")
        if kind and name:
            return f"{owner}/{'--'.join(name)}"
    given = document.get("_name_or_path")
    is_id = isinstance(given, str) and is_model_id(given) and given.partition("/")[0] not in _FOLDERS
    return str(given) if is_id else None


@dataclass(frozen=True)
class _View:
    """A part of the document with the parts that it lies in, the innermost first."""

    path: str
    chain: tuple[Fields, ...]

    @property
    def fields(self) -> Fields:
        return self.chain[0]

    def nearest(self, *names: str) -> Any:
        """The first value, from the inside out, that is not null."""
        values = (fields.get(name) for fields in self.chain for name in names)
        return next((value for value in values if value is not None), None)

    @property
    def model_type(self) -> str:
        """Empty: nothing says it."""
        value = self.nearest("model_type")
        return value if isinstance(value, str) else ""

    def place(self, name: str) -> str:
        """A field of the innermost part, as errors name it."""
        return f"{self.path}{name}"


def _checkpoint(document: Fields, beside: Fields, asked: Asked, name: str | None, path: Path) -> ConfigJson:
    view = _experts_view(document)
    try:
        sizes = {size: _size(view, size) for size in ALIASES}
    except ConfigJsonError as error:
        raise ConfigJsonError(error.reason, _say_sizes(view)) from error
    gated, activation = _gate(view)
    signs = _other_width(view, sizes["K"])
    missing = [f"{size} ({_told(view, size)})" for size, value in sizes.items() if value is None]
    if missing:
        raise ConfigJsonError(f"expected the sizes of an MoE model, found no {', no '.join(missing)}", _say_sizes(view))
    E, N, K, top_k = (int(sizes[size] or 0) for size in ("E", "N", "K", "top_k"))
    if top_k > E:
        reason = f"top_k: expected at most the model's {E} experts, found {top_k}"
        raise ConfigJsonError(reason, f"correct the file, or {_say_sizes(view, 'top_k')}")
    if signs and not gated:
        reason = f"expected experts with a gate on the hidden size, found none ({activation}) and {signs}"
        raise ConfigJsonError(f"{reason}: there is nothing to tune")
    stored, dtype_from = _stored(document, beside, view, _layers(view, E), asked)
    if signs and stored.dtype in OTHER_KERNELS:
        raise ConfigJsonError(another_kernel(dtype_from, stored.dtype))
    if signs:
        reason = f"{signs}: expected experts on the hidden size, found a sign of a width of their own"
        raise ConfigJsonError(reason, f"with that width as K, {_say_sizes(view, 'K')}")
    model = Model(name or printable(str(path)), E, N, K, top_k, stored, f"shape: {path.name}", gated=gated)
    return ConfigJson(model, name is not None, dtype_from, activation)


# ---------------------------------------------------------------
# Sizes


def _views(path: str, chain: tuple[Fields, ...]) -> Iterator[_View]:
    yield _View(path, chain)
    for name in VIEWS:
        inner = chain[0].get(name)
        if isinstance(inner, Mapping):
            yield from _views(f"{path}{name}.", (inner, *chain))


def _experts_view(document: Fields) -> _View:
    """The innermost part with experts. Where there is none: the document, in which they are missed."""
    holders = [view for view in _views("", (document,)) if _values(view, ALIASES["E"])]
    if not holders:
        return _View("", (document,))
    innermost = max(holders, key=lambda view: len(view.chain))
    for view in holders:
        is_outer = any(view.fields is outer for outer in innermost.chain)
        if not is_outer or _known_sizes(view)["E"] != _known_sizes(innermost)["E"]:
            reason = (
                f"{view.path or 'the top level'}: expected experts in one part, found other ones in {innermost.path}"
            )
            raise ConfigJsonError(reason, _say_sizes(innermost))
    return innermost


def _get(fields: Fields, name: str) -> Any:
    """A field, or one of a part: «ffn_config.moe_top_k»."""
    part, dot, inner = name.partition(".")
    value = fields.get(part)
    return value if not dot else value.get(inner) if isinstance(value, Mapping) else None


def _values(view: _View, names: tuple[str, ...]) -> dict[str, Any]:
    """The fields that hold something: null and 0 are how a dense model leaves experts out."""
    values = {name: _get(view.fields, name) for name in names}
    return {name: value for name, value in values.items() if value not in (None, 0) or value is False}


def _size(view: _View, size: str) -> int | None:
    """The one number that the size's fields hold; None: there is none of them. ConfigJsonError, without a way out."""
    sizes: dict[str, int] = {}
    for name, value in _values(view, _names(view, size)).items():
        numbers = value if isinstance(value, list) and value else [value]
        if any(type(each) is not int or each < 1 for each in numbers):
            reason = f"{view.place(name)}: expected a number above 0, found {found(value)}"
            raise ConfigJsonError(reason)
        if len(set(numbers)) > 1:
            expected = "expected one size, or a list that repeats one, since each size has a file of its own"
            raise ConfigJsonError(f"{view.place(name)}: {expected}; found {found(value)}")
        sizes[name] = numbers[0]
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{view.place(name)} {value}" for name, value in sizes.items())
        raise ConfigJsonError(f"{size}: expected fields that agree, found {told}")
    return next(iter(sizes.values()), None)


def _known_sizes(view: _View) -> dict[str, int | None]:
    """As far as the file tells them."""
    sizes: dict[str, int | None] = {}
    for size in ALIASES:
        try:
            sizes[size] = _size(view, size)
        except ConfigJsonError:
            sizes[size] = None
    return sizes


def _say_sizes(view: _View, *unknown: str) -> str:
    """The way out: the flags with the sizes that the file does tell, and a letter for each of the others."""
    sizes = {**_known_sizes(view), **dict.fromkeys(unknown)}
    flags = (f"--{size.replace('_', '-')} {size if value is None else value}" for size, value in sizes.items())
    return f"give the sizes themselves: {' '.join(flags)} [--dtype] [--block-shape n,k]"


def _names(view: _View, size: str) -> tuple[str, ...]:
    if size != "N" or _values(view, ALIASES["N"]):
        return ALIASES[size]
    has_it = view.model_type in EXPERTS_HAVE_INTERMEDIATE_SIZE
    return ("intermediate_size",) if has_it else ALIASES["N"]


def _told(view: _View, size: str) -> str:
    """Where a missing size was looked for."""
    names = " or ".join(_names(view, size))
    if size == "N" and _values(view, ("intermediate_size",)):
        kind = found(view.model_type)
        return f"{names}; intermediate_size is a dense layer's, as far as is known of model_type {kind}"
    return f"{names}{f' in {view.path}' if view.path else ''}".rstrip(".")


def _layers(view: _View, num_experts: int) -> Experts:
    """The layers with experts, as far as modules are left out by their number."""
    count = view.nearest("num_hidden_layers", "n_layers", "num_layers")
    dense = view.nearest(*DENSE_LAYERS)
    last = count if type(count) is int and count > 0 else 1
    first = dense if type(dense) is int and 0 < dense < last else 0
    return Experts(range(first, last), num_experts)


# ---------------------------------------------------------------
# The gate, and the width that experts see


def _gate(view: _View) -> tuple[bool, str]:
    """Whether experts have a gate, and the field that says so. ConfigJsonError: an activation that is not known."""
    for name, value in _values(view, ACTIVATIONS).items():
        function = value.get("name") if isinstance(value, Mapping) else value
        spelt = function.casefold() if isinstance(function, str) else ""
        told = f"{view.place(name)} {found(function)}"
        if spelt in UNGATED or view.model_type in UNGATED_TYPES:
            return False, told
        if spelt not in GATED:
            reason = f"{view.place(name)}: expected an activation that is known, found {found(function)}"
            raise ConfigJsonError(reason, f"if it has a gate, {_say_sizes(view)}")
    return view.model_type not in UNGATED_TYPES, f"model_type {found(view.model_type)}"


def _other_width(view: _View, K: int | None) -> str:
    """The signs that experts see another width than the hidden size. Empty: there is none."""
    signs = {
        name: value
        for fields in view.chain
        for name, value in fields.items()
        if ("latent" in name or name.startswith("routed_expert_")) and value not in (None, False, 0)
    }
    width = view.fields.get("moe_hidden_size")
    if width not in (None, K):
        signs["moe_hidden_size"] = width
    return ", ".join(f"{name} {found(value)}" for name, value in signs.items())


# ---------------------------------------------------------------
# How experts are stored


def _stored(document: Fields, beside: Fields, view: _View, experts: Experts, asked: Asked) -> tuple[Quantisation, str]:
    try:
        stored, told = _own(document, beside, view, experts)
    except ConfigJsonError:
        if asked.dtype is None:
            raise
        return asked.of(Quantisation("bf16")), "--dtype"
    quantisation = asked.of(stored)
    return quantisation, told if quantisation == stored else "--dtype"


def _own(document: Fields, beside: Fields, view: _View, experts: Experts) -> tuple[Quantisation, str]:
    """The checkpoint's own quantisation, and the field that says so. ConfigJsonError: not known, or two answers."""
    compute = view.nearest("dtype", "torch_dtype")
    if not isinstance(compute, str | None) or compute not in COMPUTE_DTYPES:
        known = ", ".join(sorted(filter(None, COMPUTE_DTYPES)))
        raise ConfigJsonError(f"dtype: expected one of {known}, found {found(compute)}", SAY_DTYPE)
    plain = Quantisation(COMPUTE_DTYPES[compute])
    places = _quantised_places(document, beside, view)
    if (of_experts := _experts_own(view, places)) is not None:
        return of_experts
    answers = {where: experts_quantisation(fields, where, experts) or plain for where, fields in places.items()}
    if len(set(answers.values())) > 1:
        told = ", ".join(f"{where} {answer}" for where, answer in answers.items())
        raise ConfigJsonError(f"expected places that agree on how experts are stored, found {told}", SAY_DTYPE)
    return next(((answer, where) for where, answer in answers.items()), (plain, "dtype"))


def _experts_own(view: _View, places: Mapping[str, Fields]) -> tuple[Quantisation, str] | None:
    """By the fields that speak of the experts alone. None: there is none, or quantization_config says the rest."""
    tables = [*view.chain, *places.values()]
    algorithm = next((value for table in tables if (value := table.get("moe_quant_algo")) is not None), None)
    if algorithm is not None:
        return by_algorithm(str(algorithm), "moe_quant_algo"), "moe_quant_algo"
    dtype = next((value for table in tables if (value := table.get("expert_dtype")) is not None), None)
    where = "expert_dtype"
    methods = {str(fields.get("quant_method")) for fields in places.values()}
    if dtype is None and view.model_type in FOUR_BIT_UNLESS_SAID and methods & {"fp8", "deepseek_v4_fp8"}:
        dtype, where = "fp4", "expert_dtype (missing: fp4 for this model_type)"
    match dtype:
        case "fp4" | "mxfp4":
            return Quantisation("mxfp4"), where
        case "nvfp4":
            return Quantisation("nvfp4"), where
        case "bf16" | "bfloat16" | "fp16" | "float16":
            return Quantisation(COMPUTE_DTYPES[dtype]), where
        case "fp8" if places:
            return None
        case None:
            return None
    expected = "fp4, bf16, or fp8 with a quantization_config"
    raise ConfigJsonError(f"expert_dtype: expected {expected}, found {found(dtype)}", SAY_DTYPE)


def _quantised_places(document: Fields, beside: Fields, view: _View) -> dict[str, Fields]:
    """Every part that says how this language model is quantised, by its name. A null one says nothing.

    ConfigJsonError: one in a part that is not known, which may be the experts'.
    """
    places: dict[str, Fields] = {}
    for where, fields in _deep("", document):
        outer = where.rpartition(".")[0]
        if OTHER_PARTS.search(outer):
            continue
        if not any(fields is table.get(name) for table in view.chain for name in QUANTISED_IN):
            reason = f"{where}: expected it beside the experts' fields or above them, found it in {outer or 'the file'}"
            raise ConfigJsonError(reason, SAY_DTYPE)
        places[where] = fields
    quantisation = beside.get("quantization")
    if isinstance(quantisation, Mapping):
        # The older place, which alone may list the layers of mixed checkpoints.
        places = {where: fields for where, fields in places.items() if not _needs_layers(fields, quantisation)}
        places["hf_quant_config.json, quantization"] = {"quant_method": "modelopt", **quantisation}
    elif beside:
        reason = f"hf_quant_config.json, quantization: expected an object, found {found(quantisation)}"
        raise ConfigJsonError(reason, SAY_DTYPE)
    return places


def _needs_layers(fields: Fields, beside: Fields) -> bool:
    is_mixed = str(fields.get("quant_algo")).upper() == "MIXED_PRECISION"
    return is_mixed and "quantized_layers" not in fields and "quantized_layers" in beside


def _deep(path: str, fields: Fields) -> Iterator[tuple[str, Fields]]:
    for name, value in fields.items():
        if name in QUANTISED_IN:
            if isinstance(value, Mapping):
                yield f"{path}{name}", value
            elif value is not None:
                raise ConfigJsonError(f"{path}{name}: expected an object, found {found(value)}", SAY_DTYPE)
        elif isinstance(value, Mapping):
            yield from _deep(f"{path}{name}.", value)
