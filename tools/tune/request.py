"""The command line of `python -m tools.tune`, checked before anything runs. Standard library only."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools import cli
from tools.cli import path_argument
from tools.errors import reason_of
from tools.store.config_file import USUAL_BATCH_SIZES
from tools.store.strict_json import Json
from tools.text import printable, shown_path
from tools.tune.policy import Budget
from tools.tune.subject import ConfigJsonSource, ModelSource, Parallel, SizesSource, Source

MAX_NUM_TOKENS = 65536
ROUTINGS = ("uniform", "skew")


class RequestError(ValueError):
    """Bad use. One line for a person."""


@dataclass(frozen=True)
class Files:
    """What is read and written. output None: configs/ (a replay writes nothing then)."""

    output: Path | None = None
    record_landscape: Path | None = None
    replay: Path | None = None
    force_version_file: bool = False


@dataclass(frozen=True)
class Effort:
    """How hard to try."""

    time_budget_s: float = Budget.total_s
    exhaustive: bool = False
    resume: bool = False
    jobs: int | None = None


@dataclass(frozen=True)
class Request:
    """A checked command line, but for what only the machine can tell. sources: empty for a replay."""

    sources: tuple[Source, ...]
    batch_sizes: tuple[int, ...]
    files: Files
    effort: Effort
    routing: str
    separate_down: bool
    all_shapes: bool
    ray: str | None
    as_json: bool

    @property
    def is_partial(self) -> bool:
        """Only some of the usual rows were asked for."""
        return not set(USUAL_BATCH_SIZES) <= set(self.batch_sizes)

    @property
    def settings(self) -> dict[str, Json]:
        """What a resumed run must share, and the record tells."""
        return {
            "num_tokens": list(self.batch_sizes),
            "routing": self.routing,
            "exhaustive": self.effort.exhaustive,
            "time_budget_s": None if self.effort.exhaustive else self.effort.time_budget_s,
            "separate_down": self.separate_down,
        }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.tune",
        description="Finds the best launch config for every batch size of a workload, on this machine's GPU.",
        epilog="Exit 0: tuned. 1: a row could not be decided. 2: bad use, or impossible here; nothing was written.",
    )
    what = parser.add_argument_group("the workload, in one of four ways")
    what.add_argument("--model", metavar="NAME", help="a model of configs/registry/models.json")
    what.add_argument("--config-json", type=path_argument, metavar="FILE", help="a checkpoint's config.json")
    for flag in ("E", "N", "K", "top-k"):
        what.add_argument(f"--{flag}", type=int, metavar=flag[0].upper(), help="a size as one rank sees it")
    what.add_argument("--workloads", type=path_argument, metavar="FILE", help="lines «MODEL tp=N [ep=N] [dtype=D]»")
    what.add_argument("--tp", type=int, default=1, metavar="N", help="tensor parallel size (1)")
    what.add_argument("--ep", type=int, default=1, metavar="N", help="expert parallel size (1)")
    what.add_argument("--dtype", metavar="D", help="instead of the checkpoint's: bf16, fp16, fp8_w8a8, int8_w8a16, …")
    what.add_argument("--block-shape", metavar="n,k", help="block of the weights' scales, with sizes")
    what.add_argument("--per-channel-quant", action="store_true", help="channel scales, with sizes")
    what.add_argument("--all-shapes", action="store_true", help="every (K, top_k) of registered models behind the name")
    how = parser.add_argument_group("how")
    how.add_argument("--num-tokens", type=int, nargs="+", metavar="M", help="batch sizes; default: the 18 usual ones")
    how.add_argument("--routing", choices=ROUTINGS, default="uniform", help="how tokens choose experts (uniform)")
    how.add_argument("--separate-down", action="store_true", help="write a _down file too where it gains")
    how.add_argument(
        "--time-budget",
        type=float,
        default=Effort.time_budget_s,
        metavar="S",
        help="seconds to plan with: the search ends in time, and a row is measured no more often than that leaves "
        f"time for, but once however long it takes ({Effort.time_budget_s:.0f})",
    )
    how.add_argument("--exhaustive", action="store_true", help="measure everything, however long it takes")
    how.add_argument("--jobs", type=int, metavar="N", help="compiling processes (one a core)")
    how.add_argument("--ray", metavar="ADDRESS", help="tune --workloads on a Ray cluster, one a GPU")
    files = parser.add_argument_group("files")
    files.add_argument("--output", type=path_argument, metavar="DIR", help="default: configs/")
    files.add_argument("--resume", action="store_true", help="go on with a run that was killed")
    files.add_argument("--record-landscape", type=path_argument, metavar="FILE", help="keep every measurement")
    files.add_argument("--replay", type=path_argument, metavar="FILE", help="tune on a kept landscape, without a GPU")
    files.add_argument("--force-version-file", action="store_true", help="a triton_X_Y_Z/ file even without gain")
    files.add_argument("--format", choices=("text", "json"), default="text")
    return parser


def parse(arguments: Sequence[str]) -> Request:
    """SystemExit(2) with a usage line, or RequestError."""
    options = parser().parse_args(arguments)
    way = _way(options)
    _check_effects(options, way)
    sources = _sources(options, way)
    batch_sizes = tuple(sorted(set(options.num_tokens or USUAL_BATCH_SIZES)))
    for name, value, least, most in (
        ("--num-tokens", batch_sizes[0], 1, MAX_NUM_TOKENS),
        ("--num-tokens", batch_sizes[-1], 1, MAX_NUM_TOKENS),
        ("--time-budget", options.time_budget, 1, 7 * 24 * 3600),
        ("--jobs", 1 if options.jobs is None else options.jobs, 1, 1024),
        ("--tp", options.tp, 1, 4096),
        ("--ep", options.ep, 1, 4096),
    ):
        if not least <= value <= most:
            raise RequestError(f"{name}: expected from {least} to {most}, found {value}.")
    if options.record_landscape and len(sources) > 1:
        raise RequestError("--record-landscape: expected one workload, found several.")
    return Request(
        sources,
        batch_sizes,
        Files(options.output, options.record_landscape, options.replay, options.force_version_file),
        Effort(options.time_budget, options.exhaustive, options.resume, options.jobs),
        options.routing,
        options.separate_down,
        options.all_shapes,
        options.ray,
        options.format == "json",
    )


_SIZES = {"--E": "E", "--N": "N", "--K": "K", "--top-k": "top_k"}
_BY_SIZES = " ".join(_SIZES)
_WAYS = {"--model": "model", "--config-json": "config_json", "--workloads": "workloads", "--replay": "replay"}
_ON_A_GPU = ("--model", "--config-json", _BY_SIZES, "--workloads")
_COUNTS_WITH: Mapping[str, tuple[str, ...]] = {
    "--tp": ("--model", "--config-json"),
    "--ep": ("--model", "--config-json"),
    "--dtype": ("--model", "--config-json", _BY_SIZES),
    "--block-shape": (_BY_SIZES,),
    "--per-channel-quant": (_BY_SIZES,),
    "--ray": ("--workloads",),
    **dict.fromkeys(("--all-shapes", "--routing", "--jobs", "--resume", "--record-landscape"), _ON_A_GPU),
}
"""A flag that would change nothing is a mistake of whoever gives it."""
_NOT_ON_A_CLUSTER = ("--jobs", "--resume", "--record-landscape", "--format")


def _way(options: argparse.Namespace) -> str:
    """The one flag that names the workload."""
    found = [flag for flag, name in _WAYS.items() if getattr(options, name) is not None]
    if any(getattr(options, name) is not None for name in _SIZES.values()):
        found.append(_BY_SIZES)
    if len(found) != 1:
        expected = ", ".join((*_ON_A_GPU, "--replay"))
        raise RequestError(f"the workload: expected one of {expected}, found {' and '.join(found) or 'none of them'}.")
    return found[0]


def _check_effects(options: argparse.Namespace, way: str) -> None:
    unsaid = parser()
    given = {
        flag
        for flag in (*_COUNTS_WITH, *_NOT_ON_A_CLUSTER, "--time-budget", "--force-version-file")
        if getattr(options, name := flag.lstrip("-").replace("-", "_")) != unsaid.get_default(name)
    }
    for flag, ways in _COUNTS_WITH.items():
        if flag in given and way not in ways:
            raise RequestError(f"{flag}: expected with {' or '.join(ways)}, found with {way}: it would change nothing.")
    for flag in _NOT_ON_A_CLUSTER:
        if flag in given and options.ray is not None:
            raise RequestError(f"{flag}: expected without --ray, found both: it would change nothing there.")
    if "--time-budget" in given and options.exhaustive:
        raise RequestError("--time-budget: expected without --exhaustive, found both: it would change nothing.")
    if "--force-version-file" in given and way == "--replay" and options.output is None:
        raise RequestError("--force-version-file: expected with --output, found none: it would change nothing.")


def _sources(options: argparse.Namespace, way: str) -> tuple[Source, ...]:
    parallel = Parallel(options.tp, options.ep)
    if way == "--replay":
        return ()
    if way == "--workloads":
        return read_workloads(options.workloads)
    if way == "--model":
        return (ModelSource(options.model, parallel, options.dtype),)
    if way == "--config-json":
        return (ConfigJsonSource(options.config_json, parallel, options.dtype),)
    missing = [flag for flag, name in _SIZES.items() if getattr(options, name) is None]
    if missing:
        raise RequestError(f"sizes: expected all of {_BY_SIZES}, found no {' '.join(missing)}.")
    return (
        SizesSource(
            options.E,
            options.N,
            options.K,
            options.top_k,
            options.dtype,
            _block_shape(options.block_shape),
            options.per_channel_quant,
        ),
    )


def _block_shape(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"\[?([1-9][0-9]{0,4}), ?([1-9][0-9]{0,4})\]?", text)
    if match is None:
        raise RequestError(f"--block-shape: expected two numbers as in 128,128, found {text!r}.")
    return int(match[1]), int(match[2])


def read_workloads(path: Path) -> tuple[ModelSource, ...]:
    """`MODEL tp=N [ep=N] [dtype=D]` a line; empty lines and what follows # are skipped. RequestError names the line."""
    try:
        lines = cli.read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = "bytes that are no UTF-8" if isinstance(error, UnicodeDecodeError) else reason_of(error)
        told = f"expected a text file, found: {reason}. Fix: correct the path, or save it as UTF-8."
        raise RequestError(f"--workloads: {shown_path(path)}: {told}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if words:
            found.append(_workload(f"{shown_path(path)}, line {number}", words))
    if not found:
        raise RequestError(f"--workloads: expected a workload a line, found none in {shown_path(path)}.")
    return tuple(found)


def _workload(where: str, words: list[str]) -> ModelSource:
    name, *settings = words
    values: dict[str, str] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        is_sound = value if key == "dtype" else key in ("tp", "ep") and re.fullmatch("[1-9][0-9]{0,3}", value)
        if not is_sound or key in values:
            raise RequestError(
                f"{where}: expected «MODEL tp=N [ep=N] [dtype=D]», found {printable(' '.join(words))!r}."
            )
        values[key] = value
    parallel = Parallel(int(values.get("tp", 1)), int(values.get("ep", 1)))
    return ModelSource(name, parallel, values.get("dtype"), where)


def arguments_of(source: ModelSource) -> tuple[str, ...]:
    """The flags that name a registered model: what a node of a cluster is started with."""
    sizes = ("--tp", str(source.parallel.tp), "--ep", str(source.parallel.ep))
    return ("--model", source.name, *sizes, *(("--dtype", source.dtype) if source.dtype else ()))


def arguments_of_effort(request: Request) -> tuple[str, ...]:
    """The flags that say how to tune."""
    flags = {
        "--exhaustive": request.effort.exhaustive,
        "--separate-down": request.separate_down,
        "--all-shapes": request.all_shapes,
        "--force-version-file": request.files.force_version_file,
    }
    return (
        *("--num-tokens", *map(str, request.batch_sizes)),
        *("--time-budget", str(request.effort.time_budget_s), "--routing", request.routing),
        *(flag for flag, is_given in flags.items() if is_given),
    )
