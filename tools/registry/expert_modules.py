"""Which of a checkpoint's experts a list of module patterns means: none of them, all of them, or some.

Quantised checkpoints name the modules that are left out, or taken, in four spellings: a module's own name or a part of
it made of whole components (`lm_head`, `mlp.gate`), a regular expression (`re:.*experts.*`, of compressed-tensors; in
GPTQ's `dynamic` `-:` and `+:`), and a glob (`model.layers.61*`, of ModelOpt). So the patterns are tried on the names
that the experts' projections have in the layers of the model.
"""

from __future__ import annotations

import enum
import fnmatch
import functools
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

MOST_LAYERS = 256


class Share(enum.Enum):
    """How many of the experts are meant."""

    NONE = enum.auto()
    SOME = enum.auto()
    ALL = enum.auto()


@dataclass(frozen=True)
class Experts:
    """The layers that have experts, and how many each has."""

    layers: range
    num_experts: int


_PREFIXES = ("model", "model.language_model", "language_model.model", "thinker.model", "backbone", "transformer")
_CONTAINERS = ("mlp.", "block_sparse_moe.", "feed_forward.", "ffn.", "mixer.", "moe.", "")
_PROJECTIONS = (("gate_proj", "up_proj", "down_proj"), ("w1", "w2", "w3"), ("gate_up_proj", "down_proj"))
"""As transformers and both engines name them: Mixtral's block_sparse_moe.experts.0.w1, Qwen's mlp.experts.0.up_proj."""


def share(patterns: Collection[str], experts: Experts) -> Share:
    """How many of the experts' projections at least one of the patterns means. Patterns that mean nothing are none."""
    plain = {parts for pattern in patterns if not _is_wild(pattern) if (parts := _parts(pattern, experts))}
    compiled = [_compiled(pattern) for pattern in patterns if _is_wild(pattern)]
    # Most lists name attention and routers, layer by layer: what fits no module is left out at once.
    wild = [pattern for pattern in compiled if re.search(f"(?m)^(?:{pattern})", _text(experts))]
    if not plain and not wild:
        return Share.NONE
    tries = [re.compile(pattern) for pattern in wild]
    found = set()
    for names in _families(experts):
        hits = [_is_meant(name, plain, tries) for name in names]
        found.add(Share.ALL if all(hits) else Share.SOME if any(hits) else Share.NONE)
    # One spelling of the modules is the model's own; a pattern for all of it is for all of the model's experts.
    return next(each for each in (Share.ALL, Share.SOME, Share.NONE) if each in found)


@functools.lru_cache(maxsize=4)
def _families(experts: Experts) -> tuple[tuple[str, ...], ...]:
    """The names of all projections, in each spelling."""
    numbers = sorted({0, experts.num_experts - 1})
    return tuple(
        tuple(
            f"{prefix}.layers.{layer}.{container}experts.{number}.{projection}"
            for layer in experts.layers[:MOST_LAYERS]
            for number in numbers
            for projection in projections
        )
        for prefix in _PREFIXES
        for container in _CONTAINERS
        for projections in _PROJECTIONS
    )


@functools.lru_cache(maxsize=4)
def _text(experts: Experts) -> str:
    """Every name, and every module that holds one, each on a line."""
    lines = {name.rsplit(".", cut)[0] if cut else name for f in _families(experts) for name in f for cut in range(5)}
    return "\n".join(sorted(lines))


_WORDS = frozenset(
    {
        *(part for names in (*_PREFIXES, *_CONTAINERS) for part in names.split(".")),
        *(projection for projections in _PROJECTIONS for projection in projections),
        *("layers", "experts"),
    }
)


def _parts(name: str, experts: Experts) -> tuple[str, ...]:
    """A plain name's components, empty where no expert's name has them all, or it is of an expert that isn't tried."""
    parts = tuple(name.removesuffix(".weight").split("."))
    if not all(part in _WORDS or part.isdecimal() for part in parts):
        return ()
    number = parts[parts.index("experts") + 1 :][:1] if "experts" in parts else ()
    return () if number and number[0] not in ("0", str(experts.num_experts - 1)) else parts


def _is_wild(pattern: str) -> bool:
    return pattern.startswith(("re:", "-:", "+:")) or any(sign in pattern for sign in "*?[")


def _compiled(pattern: str) -> str:
    """As a regular expression that can be compiled; one that can't means nothing."""
    kind, colon, expression = pattern.partition(":")
    is_expression = bool(colon) and kind in ("re", "-", "+")
    # A glob is for the whole name; `translate` says so with an end of the text, where lines are meant here.
    text = expression if is_expression else fnmatch.translate(pattern)
    text = text if is_expression else re.sub(r"(\\Z|\\z)$", "$", text).replace("(?s:", "(?:", 1)
    try:
        re.compile(text)
    except re.error:
        return _NOTHING
    return text


_NOTHING = r"(?!)"


def _is_meant(name: str, plain: Collection[tuple[str, ...]], wild: Iterable[re.Pattern[str]]) -> bool:
    parts = name.split(".")
    ends = range(1, len(parts) + 1)
    if plain and any(tuple(parts[start:end]) in plain for end in ends for start in range(end)):
        return True
    # A pattern may end at the module that holds the projection.
    return any(pattern.match(".".join(parts[:end])) for pattern in wild for end in ends[-5:])
