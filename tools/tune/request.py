"""The command line of `python -m tools.tune`, checked before anything runs. Standard library only."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools import cli
from tools.child_process import MAX_JOBS
from tools.cli import block_shape_argument, engine_path, one_of, path_argument
from tools.errors import UserError, reason_of
from tools.launch.engine_package import KERNEL_FILES
from tools.measure.panel import MAX_NUM_TOKENS
from tools.registry.config_json import is_model_id
from tools.registry.models import Asked
from tools.registry.sharding import Engine
from tools.store.strict_json import Json
from tools.text import printable, shown_path
from tools.tune.policy import Budget
from tools.tune.subject import ConfigJsonSource, ModelSource, Parallel, SizesSource, Source

PANEL = "panel"
UNIFORM_ALONE = "uniform"
"""In settings: uniform and skewed routing, each measured apart; of older landscapes, uniform alone."""

DEFAULT_BATCH_SIZES = (
    *(1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 1536, 2048, 3072, 4096),
    *(8192, 16384),
)
"""Those that both engines' tuners measure by default, and their usual prefill chunks: with 4096's entry these lose up
to 4 %."""


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
class AskedRouting:
    """Recorded routing that is measured beside the drawn ones. sha256: of the file, once it is read.

    decides: it counts when an entry is chosen.
    """

    path: Path
    decides: bool = False
    sha256: str = ""


@dataclass(frozen=True)
class DownKernel:
    """SGLang's own, which entries for down with USE_TMA run on. path: of its source; None: a replay's, which runs none.

    version: of the package around it; None: it lies alone. sha256: of the kernel. Both once it is read.
    """

    path: Path | None
    version: str | None = None
    sha256: str = ""

    @classmethod
    def of_settings(cls, settings: Mapping[str, Json]) -> DownKernel | None:
        """Inverse of `settings`, but for the path. None: they name none."""
        name = settings.get("down_kernel")
        if not isinstance(name, str):
            return None
        return cls(None, name.partition("-")[2] or None, str(settings.get("down_kernel_sha256", "")))

    @property
    def settings(self) -> dict[str, Json]:
        engine = Engine.SGLANG.value
        return {
            "down_kernel": f"{engine}-{self.version}" if self.version else engine,
            **({"down_kernel_sha256": self.sha256} if self.sha256 else {}),
        }


@dataclass(frozen=True)
class DryRun:
    """Nothing is measured or written. device_name: as a driver or a file name spells it; None: this machine's GPU."""

    device_name: str | None = None


@dataclass(frozen=True)
class TuneRequest:
    """A checked command line, but for what only the machine can tell. sources: empty for a replay.

    engine: whose file is tuned; None: vLLM's, or SGLang's where it alone runs the model so. dry_run None: for real.
    routing: what the record says of it; a replay's is the landscape's.
    """

    sources: tuple[Source, ...]
    batch_sizes: tuple[int, ...]
    files: Files
    effort: Effort
    recorded: AskedRouting | None
    separate_down: bool
    all_shapes: bool
    ray: str | None
    as_json: bool
    engine: Engine | None = None
    dry_run: DryRun | None = None
    routing: str = PANEL
    down_kernel: DownKernel | None = None

    @property
    def is_partial(self) -> bool:
        """Only some of the usual rows were asked for."""
        return not set(DEFAULT_BATCH_SIZES) <= set(self.batch_sizes)

    @property
    def settings(self) -> dict[str, Json]:
        """What a resumed run must share, and the record tells."""
        return {
            "num_tokens": list(self.batch_sizes),
            "routing": self.routing,
            **self._of_recorded,
            "exhaustive": self.effort.exhaustive,
            "time_budget_s": None if self.effort.exhaustive else self.effort.time_budget_s,
            "separate_down": self.separate_down,
            **(self.down_kernel.settings if self.down_kernel else {}),
        }

    @property
    def _of_recorded(self) -> dict[str, Json]:
        found = self.recorded
        return {"recorded_sha256": found.sha256, "decide_by_recorded": found.decides} if found else {}


MODEL, CONFIG_JSON, WORKLOADS, REPLAY = "--model", "--config-json", "--workloads", "--replay"
SIZES = "--E --N --K --top-k"
ON_A_GPU = (MODEL, CONFIG_JSON, SIZES, WORKLOADS)
WAYS = (*ON_A_GPU, REPLAY)
"""The ways to name a workload. A command line holds exactly one of them."""


@dataclass(frozen=True)
class Flag:
    """A flag, and when it has an effect: one that would change nothing is refused as a mistake.

    reads: what argparse needs to read it. only_with: the ways to name the workload with which it has an effect.
    not_with: the flag beside which it has none. beside: the flag without which it has none. within: the least and the
    most that its numbers may be.
    """

    name: str
    help: str | None
    reads: Mapping[str, Any]
    only_with: tuple[str, ...] = WAYS
    not_with: str | None = None
    beside: str | None = None
    within: tuple[int, int] | None = None

    @property
    def attribute(self) -> str:
        """Of argparse's namespace."""
        return self.name.lstrip("-").replace("-", "_")

    @property
    def default(self) -> Any:
        """What it reads as where it isn't given."""
        return False if self.reads.get("action") == "store_true" else self.reads.get("default")


FLAGS: Mapping[str, tuple[Flag, ...]] = {
    "the workload, in one of four ways": (
        Flag("--model", "a model of configs/registry/models.json", {"metavar": "NAME"}),
        Flag("--config-json", "a checkpoint's config.json", {"type": path_argument, "metavar": "FILE"}),
        Flag("--E", "experts on one rank", {"type": int, "metavar": "E"}),
        Flag("--N", "intermediate size of one shard", {"type": int, "metavar": "N"}),
        Flag("--K", "hidden size", {"type": int, "metavar": "K"}),
        Flag("--top-k", "experts per token", {"type": int, "metavar": "T"}),
        Flag(
            "--workloads",
            "a file with a line «MODEL tp=N [ep=N] [dtype=D] [block_shape=n,k]» for each workload",
            {"type": path_argument, "metavar": "FILE"},
        ),
        Flag(
            "--tp",
            "tensor parallel size (1)",
            {"type": int, "default": 1, "metavar": "N"},
            only_with=(MODEL, CONFIG_JSON),
            within=(1, 4096),
        ),
        Flag(
            "--ep",
            "expert parallel size (1); with --E, which counts one rank's, of as many ranks",
            {"type": int, "default": 1, "metavar": "N"},
            only_with=(MODEL, CONFIG_JSON, SIZES),
            within=(1, 4096),
        ),
        Flag(
            "--fused-shared-experts",
            "shared experts that the engine runs as experts of the layer: counted in --E and in --top-k (0)",
            {"type": int, "metavar": "N"},
            only_with=(SIZES,),
            within=(0, 64),
        ),
        Flag(
            "--dtype",
            "instead of the checkpoint's: bf16, fp16, fp8_w8a8, int8_w8a16, …",
            {"metavar": "D"},
            only_with=(MODEL, CONFIG_JSON, SIZES),
        ),
        Flag(
            "--block-shape",
            "block of the weights' scales, instead of the checkpoint's",
            {"type": block_shape_argument, "metavar": "n,k"},
            only_with=(MODEL, CONFIG_JSON, SIZES),
        ),
        Flag(
            "--per-channel-quant",
            "channel scales, instead of the checkpoint's",
            {"action": "store_true"},
            only_with=(MODEL, CONFIG_JSON, SIZES),
        ),
        Flag(
            "--model-id",
            "the model's id, for the record; default: what the path or the file says",
            {"metavar": "OWNER/NAME"},
            only_with=(CONFIG_JSON,),
        ),
        Flag(
            "--all-shapes",
            "also every (K, top_k) behind this file name that people run on this GPU, by models.json's placements",
            {"action": "store_true"},
            only_with=ON_A_GPU,
        ),
    ),
    "whose file, and a look before anything is measured": (
        Flag(
            "--engine",
            "whose file; default: vLLM's, or SGLang's where it alone runs the model so; of sizes, the one that "
            "they name; with --dry-run both",
            {"type": one_of(Engine), "metavar": "{vllm,sglang}"},
            only_with=ON_A_GPU,
        ),
        Flag(
            "--dry-run",
            "measure nothing: say of each engine which file it asks for, its sizes, dtype and scales, the memory that "
            "tuning takes, how many launch configs are tried, and whether it reads the file by default",
            {"action": "store_true"},
            only_with=ON_A_GPU,
            not_with="--ray",
        ),
        Flag(
            "--device-name",
            "the GPU of the dry run, as its driver or a file name spells it; default: this machine's",
            {"metavar": "D"},
            only_with=ON_A_GPU,
            beside="--dry-run",
        ),
    ),
    "how": (
        Flag(
            "--num-tokens",
            "batch sizes; default: the 20 usual ones",
            {"type": int, "action": "extend", "nargs": "+", "metavar": "M"},
            within=(1, MAX_NUM_TOKENS),
        ),
        Flag(
            "--routing",
            "routing that a server had, an .npy file of topk_ids: measured beside uniform and skewed routing, and told",
            {"type": path_argument, "metavar": "FILE"},
            only_with=ON_A_GPU,
            not_with="--ray",
        ),
        Flag(
            "--decide-by-recorded",
            "entries are chosen by the recorded routing too, which counts as much as uniform",
            {"action": "store_true"},
            only_with=ON_A_GPU,
        ),
        Flag("--separate-down", "also write a _down file where it is faster", {"action": "store_true"}),
        Flag(
            "--kernel",
            "SGLang's own kernel: down is tried with USE_TMA too, which only that kernel has",
            {"metavar": f"sglang=PATH/{KERNEL_FILES[Engine.SGLANG]}"},
            only_with=ON_A_GPU,
            not_with="--ray",
            beside="--separate-down",
        ),
        Flag(
            "--time-budget",
            "seconds to aim for with one (K, top_k), 40 %% more for each further one: the search stops early enough "
            "to measure every row, and a row is measured at least once, however long that takes "
            f"({Effort.time_budget_s:.0f})",
            {"type": float, "default": Effort.time_budget_s, "metavar": "S"},
            not_with="--exhaustive",
            within=(1, 7 * 24 * 3600),
        ),
        Flag("--exhaustive", "measure everything, however long it takes", {"action": "store_true"}),
        Flag(
            "--jobs",
            "compile processes (one per core)",
            {"type": int, "metavar": "N"},
            only_with=ON_A_GPU,
            not_with="--ray",
            within=(1, MAX_JOBS),
        ),
        Flag(
            "--ray",
            "tune --workloads on a Ray cluster, one workload per GPU",
            {"metavar": "ADDRESS"},
            only_with=(WORKLOADS,),
        ),
    ),
    "files": (
        Flag("--output", "default: configs/", {"type": path_argument, "metavar": "DIR"}),
        Flag(
            "--resume",
            "continue a run that was killed",
            {"action": "store_true"},
            only_with=ON_A_GPU,
            not_with="--ray",
        ),
        Flag(
            "--record-landscape",
            "write every measurement to FILE",
            {"type": path_argument, "metavar": "FILE"},
            only_with=ON_A_GPU,
            not_with="--ray",
        ),
        Flag("--replay", "tune on a recorded landscape, without a GPU", {"type": path_argument, "metavar": "FILE"}),
        # A replay that writes nothing writes no version file either: `_check_effects`.
        Flag(
            "--force-version-file", "write a triton_X_Y_Z/ file even where it gains nothing", {"action": "store_true"}
        ),
        Flag("--format", None, {"choices": ("text", "json"), "default": "text"}, not_with="--ray"),
    ),
}
"""The command line, group by group."""
EVERY_FLAG = tuple(flag for group in FLAGS.values() for flag in group)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.tune",
        description="Finds the best launch config for every batch size of a workload, on this machine's GPU.",
        epilog="Exit 0: tuned. 1: a row could not be decided. 2: bad use, or impossible here; nothing was written. "
        "With --dry-run, 0: each file fits the GPU's memory and an engine reads it, as far as is known; 1: one doesn't "
        "fit, no engine that was asked about reads it by default, or a run would be refused; 2: bad use, or nothing to "
        "tune.",
    )
    for title, flags in FLAGS.items():
        group = parser.add_argument_group(title)
        for flag in flags:
            group.add_argument(flag.name, help=flag.help, **flag.reads)
    return parser


def parse(arguments: Sequence[str]) -> TuneRequest:
    """SystemExit(2) with a usage line, or UserError."""
    options = parser().parse_args(arguments)
    values = {flag.name: (getattr(options, flag.attribute), flag.default) for flag in EVERY_FLAG}
    given = {name: value for name, (value, default) in values.items() if value != default}
    way = _way(given)
    _check_effects(given, way)
    sources = _sources(options, way)
    _check_bounds(given)
    if options.record_landscape and len(sources) > 1:
        raise UserError("--record-landscape: expected one workload, found several.")
    return TuneRequest(
        sources,
        tuple(sorted(set(options.num_tokens or DEFAULT_BATCH_SIZES))),
        Files(options.output, options.record_landscape, options.replay, options.force_version_file),
        Effort(options.time_budget, options.exhaustive, options.resume, options.jobs),
        AskedRouting(options.routing, options.decide_by_recorded) if options.routing else None,
        options.separate_down,
        options.all_shapes,
        options.ray,
        options.format == "json",
        options.engine,
        DryRun(options.device_name) if options.dry_run else None,
        down_kernel=None if options.kernel is None else _down_kernel(options.kernel),
    )


def _down_kernel(text: str) -> DownKernel:
    _, path = engine_path("--kernel", text, {Engine.SGLANG.value: f"/{KERNEL_FILES[Engine.SGLANG]}"})
    return DownKernel(path)


def _way(given: Mapping[str, Any]) -> str:
    """The one way that names the workload."""
    found = [way for way in WAYS if any(flag in given for flag in way.split())]
    if len(found) != 1:
        raise UserError(
            f"the workload: expected one of {', '.join(WAYS)}, found {' and '.join(found) or 'none of them'}."
        )
    return found[0]


def _check_effects(given: Mapping[str, Any], way: str) -> None:
    flags = [flag for flag in EVERY_FLAG if flag.name in given]
    for flag in flags:
        if way not in flag.only_with:
            expected = " or ".join(flag.only_with)
            raise UserError(f"{flag.name}: expected with {expected}, found with {way}: it would change nothing.")
    for flag in flags:
        if flag.not_with in given:
            raise UserError(f"{flag.name}: expected without {flag.not_with}, found both: it would change nothing.")
        if flag.beside is not None and flag.beside not in given:
            raise UserError(f"{flag.name}: expected with {flag.beside}, found it alone: it would change nothing.")
    if "--decide-by-recorded" in given and "--routing" not in given:
        raise UserError("--decide-by-recorded: expected with --routing FILE, found none: it would change nothing.")
    if "--force-version-file" in given and way == REPLAY and "--output" not in given:
        raise UserError("--force-version-file: expected with --output, found none: it would change nothing.")


def _check_bounds(given: Mapping[str, Any]) -> None:
    for flag in EVERY_FLAG:
        value = given.get(flag.name)
        if flag.within is None or value is None:
            continue
        least, most = flag.within
        cli.check_within(flag.name, value if isinstance(value, list) else [value], most, least)


def _piped(path: Path) -> bytes | None:
    """What comes through a pipe; None: it is a file. UserError: too much, or nox didn't hand the pipe on."""
    if path.parent == Path("/dev/fd") and not path.exists():
        raise UserError(
            f"--config-json: expected a pipe, found none at {path}: nox hands on the standard input alone. "
            "Fix: COMMAND | ./nox -s tune -- --config-json /dev/stdin"
        )
    try:
        return cli.read_pipe(path)
    except OSError as error:
        raise UserError(
            f"--config-json: {path}: {reason_of(error)}. Fix: give the checkpoint's own config.json"
        ) from error


def _sources(options: argparse.Namespace, way: str) -> tuple[Source, ...]:
    parallel = Parallel(options.tp, options.ep)
    if way == REPLAY:
        return ()
    if way == WORKLOADS:
        return read_workloads(options.workloads)
    asked = Asked(options.dtype, options.block_shape, options.per_channel_quant)
    if way == MODEL:
        return (ModelSource(options.model, parallel, asked),)
    if way == CONFIG_JSON:
        if options.model_id is not None and not is_model_id(options.model_id):
            found = printable(repr(options.model_id))
            raise UserError(f"--model-id: expected owner/name as on Hugging Face, found {found}. Fix: correct it.")
        path = options.config_json
        return (ConfigJsonSource(path, parallel, asked, options.model_id, _piped(path)),)
    missing = [flag for flag in SIZES.split() if getattr(options, flag.lstrip("-").replace("-", "_")) is None]
    if missing:
        raise UserError(f"sizes: expected all of {SIZES}, found no {' '.join(missing)}.")
    sizes = options.E, options.N, options.K, options.top_k
    return (SizesSource(*sizes, asked, parallel.ep, options.fused_shared_experts or 0),)


def read_workloads(path: Path) -> tuple[ModelSource, ...]:
    """`MODEL tp=N [ep=N] [dtype=D] …` a line; empty lines and what follows # are skipped. UserError names the line."""
    try:
        lines = cli.read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = "bytes that are no UTF-8" if isinstance(error, UnicodeDecodeError) else reason_of(error)
        problem = f"expected a text file, found: {reason}. Fix: correct the path, or save it as UTF-8."
        raise UserError(f"--workloads: {shown_path(path)}: {problem}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if words:
            found.append(_workload(f"{shown_path(path)}, line {number}", words))
    if not found:
        raise UserError(f"--workloads: expected a workload a line, found none in {shown_path(path)}.")
    return tuple(found)


def _workload(where: str, words: list[str]) -> ModelSource:
    name, *settings = words
    values: dict[str, str] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key in values or not re.fullmatch(_SETTINGS.get(key, "(?!)"), value):
            raise _bad_line(where, words)
        values[key] = value
    try:
        block_shape = block_shape_argument(values["block_shape"]) if "block_shape" in values else None
    except argparse.ArgumentTypeError as error:
        raise _bad_line(where, words) from error
    asked = Asked(values.get("dtype"), block_shape, "per_channel_quant" in values)
    return ModelSource(name, Parallel(int(values.get("tp", 1)), int(values.get("ep", 1))), asked, where)


_SETTINGS = {
    "tp": "[1-9][0-9]{0,3}",
    "ep": "[1-9][0-9]{0,3}",
    "dtype": ".+",
    "block_shape": ".+",
    "per_channel_quant": "True",
}
"""What a line of --workloads may say of its model, and how the value looks."""


def _bad_line(where: str, words: list[str]) -> UserError:
    expected = "«MODEL tp=N [ep=N] [dtype=D] [block_shape=n,k] [per_channel_quant=True]»"
    return UserError(f"{where}: expected {expected}, found {printable(' '.join(words))!r}.")


def arguments_of(source: ModelSource) -> tuple[str, ...]:
    """The flags that name a registered model: what a node of a cluster is started with."""
    asked = source.asked
    return (
        *("--model", source.name, "--tp", str(source.parallel.tp), "--ep", str(source.parallel.ep)),
        *(("--dtype", asked.dtype) if asked.dtype else ()),
        *(("--block-shape", "{},{}".format(*asked.block_shape)) if asked.block_shape else ()),
        *(("--per-channel-quant",) if asked.per_channel_quant else ()),
    )


def arguments_of_effort(request: TuneRequest) -> tuple[str, ...]:
    """The flags that say how to tune."""
    flags = {
        "--exhaustive": request.effort.exhaustive,
        "--separate-down": request.separate_down,
        "--all-shapes": request.all_shapes,
        "--force-version-file": request.files.force_version_file,
    }
    return (
        *("--num-tokens", *map(str, request.batch_sizes)),
        *("--time-budget", str(request.effort.time_budget_s)),
        *(("--engine", request.engine.value) if request.engine else ()),
        *(flag for flag, is_given in flags.items() if is_given),
    )
