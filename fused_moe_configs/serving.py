"""From a model, a parallelism, a GPU and an engine to what runs there, its shape on a rank, and its tuned file's name.

`find_serving` is the one call; `serve` is its pure part. How experts and sizes are split over ranks, and how an engine
spells a name, is code here, as read from vLLM 0.33.0 and SGLang 0.5.23. Which backend runs is data: `backends`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .backends import BackendChoice, Citation, EngineRelease, choose_backend, choose_release, read_engines
from .lookup import device_part, get_config_file_name
from .naming import spelled
from .registry import NAMED_DTYPES, SCALED_DTYPES, UNNAMED_DTYPES, Checkpoint, ServingError, arch_of, find_model

MIN_REFINED_BLOCK = 32
"""vLLM makes no smaller scale blocks out of a checkpoint's own."""


@dataclass(frozen=True)
class Rank:
    """What one rank holds of a model. N: intermediate size of its slice. slices: ranks that share one expert.

    E_later: what the later ranks hold, where the experts can't be spread evenly; else None.
    """

    E: int
    N: int
    top_k: int
    fused_shared_experts: int
    slices: int
    E_later: int | None = None


@dataclass(frozen=True)
class Serving:
    """What one rank of an engine runs for a model's experts. str() says it for people.

    version: the release whose rules answer. device_name: as the engine writes it. arch None: not known.
    backend, reads_tuned_files None: not known. E, N, K, top_k: on the rank; N is the model's own whatever the dtype.
    dtype None: bf16 and fp16. block_shape: as the engine refines it. file: this project's name of the tuned file,
    engine_file: the engine's own; None where no tuned file has a name for the dtype. E_later, file_later: of the
    later ranks, where the experts can't be spread evenly. triton: what the release pins. notes: what else to know,
    a sentence each. gated: the experts have a gate, as those have that are tuned here.
    """

    model: str
    engine: str
    version: str
    tp: int
    ep: int
    device_name: str
    arch: str | None
    kind: str
    backend: str | None
    reads_tuned_files: bool | None
    reason: str
    source: tuple[Citation, ...]
    E: int
    N: int
    K: int
    top_k: int
    fused_shared_experts: int
    dtype: str | None
    block_shape: tuple[int, int] | None
    per_channel_quant: bool
    file: str | None
    engine_file: str | None
    E_later: int | None
    file_later: str | None
    triton: str
    notes: tuple[str, ...] = ()
    gated: bool = True

    @property
    def verdict(self) -> str:
        """The backend, and whether it reads tuned files, in a few words."""
        return str(BackendChoice(self.backend, self.reads_tuned_files, self.reason))

    def to_json(self) -> dict[str, Any]:
        """Every field by its name, ready for json.dumps."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{self.model} {parallel_text(self.tp, self.ep)}, {self.engine} {self.version} on {self.device_name}",
            f"on a rank: E={self.E}, N={self.N}, K={self.K}, top_k={self.top_k}, {self.kind}",
            f"backend: {self.verdict}. {self.reason}",
        ]
        lines += [f"source: {', '.join(map(str, self.source))}"] if self.source else []
        lines += [f"file: {self.file or f'none, since no tuned file has {self.kind} in its name'}"]
        lines += [f"as {self.engine} spells it: {self.engine_file}"] if self.engine_file != self.file else []
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def parallel_text(tp: int, ep: int) -> str:
    """«tp=8 ep=4», as records name it; without ep where experts aren't spread over ranks."""
    return f"tp={tp}" + (f" ep={ep}" if ep > 1 else "")


def find_serving(
    model: str, engine: str, configs: Path, *, device_name: str, tp: int = 1, ep: int = 1,
    version: str | None = None, arch: str | None = None, dtype: str | None = None,
    block_shape: tuple[int, int] | None = None, per_channel_quant: bool = False,
) -> Serving:  # fmt: skip
    """What `engine` runs for a registered model's experts on one rank, and which tuned file it would read.

    configs: the configs folder, as `api.where` gives it. device_name: as a driver or a file name spells it. tp, ep:
    tensor and expert parallel sizes, as in `split`. version: None is the newest release known. arch: sm_90, gfx942, …;
    None: as the registry of devices has it. dtype, with block_shape or per_channel_quant: what the experts are
    quantised to while loading; None: the checkpoint's own.
    ServingError: unknown model, engine or version, or sizes that don't divide. ConfigError: a registry is broken.
    """
    checkpoint = find_model(model, configs)
    if dtype is not None or block_shape is not None or per_channel_quant:
        checkpoint = checkpoint.loaded_as(dtype or checkpoint.dtype, block_shape, per_channel_quant)
    release, note = choose_release(read_engines(configs), engine, version)
    found = serve(checkpoint, release, tp, ep, device_name, arch_of(device_name, configs) if arch is None else arch)
    return replace(found, notes=(note, *found.notes)) if note else found


def serve(
    checkpoint: Checkpoint, release: EngineRelease, tp: int, ep: int, device_name: str, arch: str | None
) -> Serving:
    """As `find_serving`, for a checkpoint and a release that are at hand. Pure. ServingError: sizes don't divide."""
    engine = release.name
    fused = checkpoint.fused_shared_experts if release.fuses_shared_experts else 0
    rank = split(checkpoint, engine, tp, ep, fused if ep == 1 or checkpoint.fused_under_ep else 0)
    block_shape = _block_shape_on_rank(checkpoint, engine, rank)
    answer = choose_backend(checkpoint, release, ep, block_shape, arch)
    file, engine_file = file_names(checkpoint, engine, rank, block_shape, device_name)
    file_later = None
    if rank.E_later is not None:
        file_later, _ = file_names(checkpoint, engine, replace(rank, E=rank.E_later), block_shape, device_name)
    return Serving(
        model=checkpoint.id,
        engine=engine,
        version=release.version,
        tp=tp,
        ep=ep,
        device_name=driver_name(engine, device_name),
        arch=arch,
        kind=checkpoint.kind,
        backend=answer.backend,
        reads_tuned_files=answer.reads_tuned_files,
        reason=answer.reason,
        source=answer.source,
        E=rank.E,
        N=rank.N,
        K=checkpoint.K,
        top_k=rank.top_k,
        fused_shared_experts=rank.fused_shared_experts,
        dtype=None if checkpoint.kind == "bf16" else checkpoint.dtype,
        block_shape=block_shape,
        per_channel_quant=_names_channels(checkpoint, engine),
        file=file,
        engine_file=engine_file,
        E_later=rank.E_later,
        file_later=file_later,
        triton=release.triton,
        notes=tuple(_notes(checkpoint, rank, ep, file_later, answer)),
        gated=checkpoint.gated,
    )


def split(checkpoint: Checkpoint, engine: str, tp: int, ep: int, fused_shared_experts: int = 0) -> Rank:
    """What one rank holds, the first where ranks differ. ServingError: sizes that the engine doesn't take.

    vLLM spreads experts over all tensor and data parallel ranks or over none, so ep is 1 or a multiple of tp, each
    expert stays whole, and ep needn't divide E: the first E % ep ranks hold one more (determine_expert_map). SGLang
    gives each expert to tp // ep ranks, and everything must divide.
    """
    for name, value in (("tp", tp), ("ep", ep)):
        if value < 1:
            raise ServingError(f"{name}: expected at least 1, found {value}. Fix: give the size, or leave {name} out.")
    fused, later = fused_shared_experts, None
    if engine == "vllm":
        if ep > 1 and ep % tp:
            raise ServingError(
                f"ep: expected tensor times data parallel size, a multiple of tp={tp}, since vLLM spreads experts over "
                f"all ranks, found {ep}. Fix: ep={tp}."
            )
        if ep > checkpoint.E:
            raise ServingError(
                f"{checkpoint.id}: ep: expected at most its {checkpoint.E} experts, found {ep}. Fix: use a smaller ep."
            )
        least, more = divmod(checkpoint.E, ep)
        experts, slices, later = least + bool(more), 1 if ep > 1 else tp, least + fused if more else None
    else:
        if tp % ep:
            raise ServingError(
                f"ep: expected a divisor of tp={tp}, since SGLang splits each expert over tp // ep ranks, found {ep}. "
                "Fix: choose tp a multiple of ep."
            )
        experts, slices = _divided(checkpoint, "E", checkpoint.E, "ep", ep), tp // ep
    N = _divided(checkpoint, "N", checkpoint.N, "tp // ep" if ep > 1 else "tp", slices)
    return Rank(experts + fused, N, checkpoint.top_k + fused, fused, slices, later)


def driver_name(engine: str, device_name: str) -> str:
    """The device as the engine writes it into names. vLLM asks for the whole H200 family under one name.

    ServingError: no driver reports such a name.
    """
    try:
        part = device_part(device_name)
    except ValueError as error:
        raise ServingError(f"{error}. Fix: give it as nvidia-smi or rocm-smi prints it.") from error
    return "NVIDIA_H200" if engine == "vllm" and "H200" in part.split("_") else part


def file_names(
    checkpoint: Checkpoint, engine: str, rank: Rank, block_shape: tuple[int, int] | None, device_name: str
) -> tuple[str | None, str | None]:
    """The tuned file's name in this project's spelling and in the engine's own. (None, None): the dtype has none."""
    dtype, device = checkpoint.dtype, driver_name(engine, device_name)
    if dtype not in (*NAMED_DTYPES[engine], *UNNAMED_DTYPES[engine]):
        return None, None
    named = dtype if dtype in NAMED_DTYPES[engine] else None
    per_channel = _names_channels(checkpoint, engine)
    try:
        own = get_config_file_name(rank.E, rank.N, device, named, block_shape, per_channel_quant=per_channel)
    except ValueError as error:
        raise ServingError(f"{checkpoint.id}: {error}. Fix: correct the model's sizes.") from error
    if dtype == "int4_w4a16":
        _divided(checkpoint, "N on a rank", rank.N, "int4's values in a byte", 2)
    return own, spelled(own, engine)


def _names_channels(checkpoint: Checkpoint, engine: str) -> bool:
    """vLLM's names don't tell channel scales from tensor scales."""
    return engine == "sglang" and checkpoint.kind in ("fp8_channel", "int8_channel")


def _divided(checkpoint: Checkpoint, name: str, total: int, over: str, parts: int) -> int:
    if total % parts:
        raise ServingError(
            f"{checkpoint.id}: {name}: expected a multiple of {over}={parts}, found {total}. "
            f"Fix: choose a divisor of {total}."
        )
    return total // parts


def _block_shape_on_rank(checkpoint: Checkpoint, engine: str, rank: Rank) -> tuple[int, int] | None:
    block_shape = checkpoint.block_shape
    if checkpoint.dtype not in SCALED_DTYPES and (block_shape is not None or checkpoint.per_channel_quant):
        raise ServingError(
            f"{checkpoint.id}: block_shape and per_channel_quant: expected with {' or '.join(SCALED_DTYPES)}, "
            f"found with {checkpoint.dtype}. Fix: leave them out, or name such a dtype too."
        )
    if block_shape is None:
        return None
    block_n, block_k = block_shape
    sides = {"block_n": block_n, **({"block_k": block_k} if rank.slices > 1 else {})}
    unfit = [name for name, side in sides.items() if rank.N % side]
    if not unfit:
        return block_shape
    if engine == "vllm":
        side = math.gcd(block_n, block_k, rank.N, checkpoint.K)
        if side >= MIN_REFINED_BLOCK:
            return side, side
        raise ServingError(
            f"{checkpoint.id}: N={rank.N} on a rank isn't a multiple of block_shape [{block_n},{block_k}], and vLLM "
            f"can refine the blocks to {side} only, under its least of {MIN_REFINED_BLOCK}. Fix: use a smaller tp."
        )
    raise ServingError(
        f"{checkpoint.id}: N={rank.N} on a rank isn't a multiple of {unfit[0]}={sides[unfit[0]]}, which SGLang needs. "
        "Fix: use a smaller tp, or an ep."
    )


def _notes(checkpoint: Checkpoint, rank: Rank, ep: int, file_later: str | None, answer: BackendChoice) -> Iterator[str]:
    if rank.E_later is not None:
        named = f" and ask for {file_later}" if file_later else ""
        yield f"{ep} ranks share {checkpoint.E} experts: ranks from {checkpoint.E % ep} on hold {rank.E_later}{named}."
    if rank.fused_shared_experts and answer.backend is None:
        routed = rank.E - rank.fused_shared_experts
        yield f"Backends that don't take the fused shared expert run E={routed}, top_k={checkpoint.top_k}."
