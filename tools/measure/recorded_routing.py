"""Routing that a server had: which experts real tokens chose, read from a file. Needs numpy, which torch brings.

The file is .npy, ids of the whole layer's experts: [tokens, top_k] of one layer, or [tokens, layers, top_k] as vLLM
returns the routed experts of a request (several requests concatenated), or as SGLang's are once shaped so. A model's
dense layers, which vLLM leaves at zero, are passed over. Fused shared experts don't stand in it: every token has them.
"""

from __future__ import annotations

import hashlib
import math
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.errors import UserError
from tools.measure.layer import LayerShape
from tools.measure.panel import RoutingKind
from tools.text import printable, shown_path

MOST_BYTES = 1 << 30
"""A hundred thousand tokens of 61 layers and 8 experts are 50 MB as vLLM stores them."""

MOST_TOP_K = 1024

_MAGIC = b"\x93NUMPY"
_CHUNK_VALUES = 1 << 22


@dataclass(frozen=True)
class RecordedRouting:
    """A file that was read and checked. ids: [tokens, layers, top_k], mapped from the disk. layers: those that route.

    largest: of all ids.
    """

    path: Path
    sha256: str
    ids: Any
    layers: tuple[int, ...]
    largest: int

    @property
    def num_tokens(self) -> int:
        return int(self.ids.shape[0])

    @property
    def top_k(self) -> int:
        return int(self.ids.shape[2])

    def check(self, layer: LayerShape) -> None:
        """UserError: it isn't of such a layer."""
        fused = layer.fused_shared_experts
        experts = layer.layer_experts - fused
        if self.top_k != layer.routed_top_k:
            with_shared = f" (top_k {layer.top_k} less the fused shared, which every token has)" if fused else ""
            raise _error(
                self.path,
                f"expected {layer.routed_top_k} experts a token{with_shared}, found {self.top_k}",
                "record the model that the tuned file is for"
                + (", without the shared expert's column" if self.top_k == layer.top_k else ""),
            )
        if self.largest >= experts:
            raise _error(
                self.path,
                f"expected ids of the layer's {experts} experts, 0 to {experts - 1}, found {self.largest}",
                "record the model that the tuned file is for, with ids of the whole layer",
            )

    def sample(self, count: int, num_tokens: int, seed: int) -> Any:
        """int64 [count, num_tokens, top_k]: for each draw a layer, and tokens of it, mixed over all requests.

        A token comes twice only where fewer are recorded than are wanted. The same seed gives the same.
        """
        import numpy as np

        chance = np.random.default_rng(seed)
        found: Any = np.empty((count, num_tokens, self.top_k), dtype=np.int64)
        for draw in found:
            layer = self.layers[chance.integers(len(self.layers))]
            rounds = math.ceil(num_tokens / self.num_tokens)
            if rounds == 1:
                tokens = chance.choice(self.num_tokens, num_tokens, replace=False)
            else:
                tokens = np.concatenate([chance.permutation(self.num_tokens) for _ in range(rounds)])[:num_tokens]
            draw[:] = self.ids[tokens, layer]
        return found


@dataclass(frozen=True)
class RoutingSource:
    """Where a block's routings come from: drawn by a kind, or taken from a recording."""

    kind: RoutingKind = RoutingKind.UNIFORM
    recorded: RecordedRouting | None = None

    def __post_init__(self) -> None:
        """ValueError: a recording without its kind, or the kind without a recording."""
        if (self.kind is RoutingKind.RECORDED) != (self.recorded is not None):
            raise ValueError(f"routing: expected a recording with the kind recorded alone, found {self.kind}.")

    @property
    def title(self) -> str:
        """For reports."""
        if self.recorded is None:
            return self.kind.value
        return f"{self.kind}: {printable(self.recorded.path.name)}, sha256 {self.recorded.sha256}"

    def check(self, layer: LayerShape) -> None:
        """UserError: a recording of another layer."""
        if self.recorded is not None:
            self.recorded.check(layer)


def read_recorded_routing(path: Path) -> RecordedRouting:
    """Checks every id of the file, a part at a time. UserError: it holds no routing."""
    try:
        import numpy as np
    except ImportError as error:
        fix = f"{shlex.quote(sys.executable)} -m pip install numpy"  # of nox's own environment, say
        raise UserError(f"--routing FILE: expected numpy to read it with, found none. Fix: {fix}.") from error
    try:
        shape = _check_header(path)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise _error(path, f"expected a file that can be read, found: {error.strerror or error}", "name another") from (
            error
        )
    ids = ids.reshape(shape[0], -1, shape[-1])
    layers, largest = _check_ids(path, ids)
    return RecordedRouting(path, sha256, ids, layers, largest)


def _error(where: Path, what: str, fix: str) -> UserError:
    return UserError(f"--routing {shown_path(where)}: {what}. Fix: {fix}.")


_SHAPES = "[tokens, top_k] or [tokens, layers, top_k]"
_SAVE = "numpy.save(FILE, ids) of an integer array " + _SHAPES


def _check_header(path: Path) -> tuple[int, ...]:
    """The array's shape; reads no values. UserError: what makes it none of a routing. OSError: can't be read."""
    import numpy as np

    if not path.is_file():
        raise _error(path, "expected a .npy file, found none" if not path.exists() else "expected a file", "name one")
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise _error(path, "expected a .npy file, found other bytes at its start", _SAVE)
        file.seek(0)
        try:
            version = np.lib.format.read_magic(file)
            if version not in ((1, 0), (2, 0), (3, 0)):
                raise ValueError(f"version {version[0]}.{version[1]}")
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            if not all(type(size) is int for size in shape):
                raise ValueError("sizes that are no integers")
        except (ValueError, TypeError, IndexError, KeyError) as error:  # numpy's, of a header that was made up
            reason = printable(re.sub(r"\s+", " ", str(error))[:100])
            raise _error(path, f"expected a .npy header, found: {reason}", _SAVE) from error
        start = file.tell()
    if dtype.hasobject:
        raise _error(path, "expected integers, found pickled objects, which are never loaded", _SAVE)
    if dtype.kind not in "iu":
        raise _error(path, f"expected integers, found {printable(str(dtype))[:40]}", "ids.astype('uint16')")
    if len(shape) not in (2, 3):
        raise _error(path, f"expected {_SHAPES}, found {len(shape)} dimensions", _SAVE)
    if not all(size > 0 for size in shape):
        raise _error(path, f"expected at least one token, found an empty array {list(shape)}", "record some requests")
    if shape[-1] > MOST_TOP_K:
        raise _error(path, f"expected at most {MOST_TOP_K} experts a token, found {shape[-1]}", _SAVE)
    needed = math.prod(shape) * dtype.itemsize
    if max(needed, size) > MOST_BYTES:
        found = f"expected at most {MOST_BYTES >> 20} MiB, found {max(needed, size) >> 20}"
        raise _error(path, found, "keep fewer tokens or layers, or ids.astype('uint16')")
    if size < start + needed:
        raise _error(path, f"expected {start + needed} bytes, found {size}: it was cut", "copy it again")
    return tuple(shape)


def _check_ids(path: Path, ids: Any) -> tuple[tuple[int, ...], int]:
    """(the layers that route, the largest id). UserError: a negative id, or an expert that a token has twice."""
    low, high = _extremes(ids)
    if low.min() < 0:
        raise _error(
            path,
            f"expected ids of the whole layer's experts from 0 on, found {low.min()}",
            "record before ids are mapped to a rank's own, and leave padded tokens out",
        )
    if low.shape[0] > 1:
        layers = tuple(int(layer) for layer in (low != high).nonzero()[0])
        if not layers:
            raise _error(path, "expected a layer whose tokens choose, found one id everywhere", "record a MoE layer")
    else:
        layers = (0,)
    for start, chunk in _chunks(ids):
        chunk = chunk[:, list(layers)]
        chunk.sort(axis=-1)
        twice = (chunk[..., 1:] == chunk[..., :-1]).any(-1)
        if twice.any():
            token, layer = (int(axis[0]) for axis in twice.nonzero())
            where = f"token {start + token}" + (f", layer {layers[layer]}" if ids.shape[1] > 1 else "")
            raise _error(path, f"{where}: expected different experts, found one twice", "leave such tokens out")
    return layers, int(high[list(layers)].max())


def _extremes(ids: Any) -> tuple[Any, Any]:
    """The least and the largest id of each layer."""
    import numpy as np

    found = [(chunk.min(axis=(0, 2)), chunk.max(axis=(0, 2))) for _, chunk in _chunks(ids)]
    return np.min([low for low, _ in found], axis=0), np.max([high for _, high in found], axis=0)


def _chunks(ids: Any) -> Iterator[tuple[int, Any]]:
    """(the first token's number, a copy of some tokens' ids)."""
    import numpy as np

    step = max(1, _CHUNK_VALUES // (ids.shape[1] * ids.shape[2]))
    for start in range(0, len(ids), step):
        yield start, np.array(ids[start : start + step])
