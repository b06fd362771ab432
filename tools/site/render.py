"""From what is known to pages: Jinja2 with autoescape, and what each template is given."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fused_moe_configs.gains import Gain
from fused_moe_configs.lookup import REFERENCE_TRITON, down_of, up_of
from fused_moe_configs.naming import ENGINE_NAMES, spelled
from fused_moe_configs.next_step import export_command
from tools.registry.devices import Device
from tools.registry.models import Model
from tools.site import charts
from tools.site.coverage import Line, anchor_of, is_shown, sizes_of
from tools.site.figures import microseconds, percent, shade
from tools.site.files import TunedFile, newest_of_engines, slug_of
from tools.site.questions import Row
from tools.site.server import behind_words, install_line, lines_to_type, shape_of
from tools.store.record import EngineChecked, RecordedRow
from tools.store.workload import Layout, parse_file_name

_ROUTINGS = {
    "uniform": "uniform routing",
    "skew_1.0": "skewed routing (Dirichlet 1.0)",
    "skew_0.3": "strongly skewed routing (Dirichlet 0.3)",
    "recorded": "recorded routing",
}
_STANDS_BACK = {"skew_1.0": "skewed", "skew_0.3": "skewed strongly"}
"""Classes of charts.css."""
TEMPLATES = Path(__file__).parent / "templates"


def environment(repository: str, revision: str) -> Environment:
    """With the filters that templates use. repository: its address. revision: the commit; empty: not known."""
    found = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    found.globals |= {"engines": ENGINE_NAMES, "repository": repository, "revision": revision, "root": "", "here": ""}
    found.globals["reference"] = REFERENCE_TRITON
    filters: dict[str, Any] = {
        "percent": percent, "shade": shade, "gpu": gpu, "slug": slug_of, "workload": workload_of, "title": title_of,
        "us": microseconds, "shape": shape_of, "behind": behind_words, "quoted": shlex.quote, "label": label_of,
        "commands": partial(commands, repository=repository),
    }  # fmt: skip
    found.filters |= filters
    return found


def gpu(name: str) -> str:
    """A device's name as people write it."""
    return name.replace("_", " ").removeprefix("NVIDIA ").removeprefix("GeForce ")


def workload_of(file: TunedFile) -> str:
    """As in «E=8, N=7168, bf16»; the name itself where it can't be read."""
    workload = file.workload
    if workload is None:
        return file.name
    words = [f"E={workload.E}", f"N={workload.N}", workload.dtype or "bf16"]
    words += ["blocks of {} × {}".format(*workload.block_shape)] if workload.block_shape else []
    words += ["per channel"] if workload.per_channel_quant else []
    return ", ".join([*words, *(["down projection"] if workload.down else [])])


def title_of(file: TunedFile) -> str:
    """The model on the GPU, where a record names one, else the workload; and what sets it apart from its like."""
    if file.workload is None:
        return file.name
    device = gpu(file.device_name) or "a GPU without a name"
    first = next(iter(file.known.models), "")
    match = re.match(r"[^/ ]*/?(\S+) tp=(\d+)(?: ep=(\d+))?(?: \+(\d+) shared)?", first)
    triton = f", Triton {file.known.triton}" if file.known.triton not in (None, REFERENCE_TRITON) else ""
    if match is None:
        return f"{workload_of(file)} on {device}{triton}"
    sizes = f"TP{match[2]}" + (f" EP{match[3]}" if match[3] else "") + (f" +{match[4]} shared" if match[4] else "")
    return f"{match[1]} {sizes} on {device}" + ", down projection" * file.is_down + triton


def commands(row: Row, devices: Sequence[Device], repository: str) -> list[tuple[str, str]]:
    """What to type under a row's table, with the GPUs that it is for."""
    by_command: dict[str, list[str]] = {}
    for device in devices:
        if lines := lines_to_type(row.answers[device.name].step, repository):
            by_command.setdefault(lines, []).append(gpu(device.name))
    return [(lines, ", ".join(names)) for lines, names in by_command.items()]


def row_heads(environment: Environment, lines: Sequence[Line], root: str) -> list[Markup]:
    """How the matrix's rows begin, which is alike on the pages of all GPUs."""
    begin = environment.get_template("macros.html").module.row_head  # type: ignore[attr-defined]
    before = ["", *(line.model for line in lines)]
    return [begin(line, line.model == above, root) for line, above in zip(lines, before, strict=False)]


@dataclass(frozen=True)
class Sizes:
    """A model's parallel sizes on its page."""

    tp: int
    ep: int
    is_placed: bool
    rows: tuple[Row, ...]

    @property
    def words(self) -> str:
        return sizes_of(self.tp, self.ep)

    @property
    def anchor(self) -> str:
        return anchor_of(self.tp, self.ep)


def places_of(rows: Iterable[Row]) -> list[Sizes]:
    """As the matrix has them."""
    by_sizes: dict[tuple[int, int], list[Row]] = {}
    for row in filter(is_shown, rows):
        by_sizes.setdefault((row.tp, row.ep), []).append(row)
    return [
        Sizes(tp, ep, any(row.is_placed for row in of_sizes), tuple(of_sizes))
        for (tp, ep), of_sizes in sorted(by_sizes.items())
    ]


def of_file(
    file: TunedFile, slugs: Mapping[str, str], repository: str, files: Sequence[TunedFile] = ()
) -> dict[str, Any]:
    """What file.html is given. slugs: of models' pages, by id. files: of the whole store."""
    figures = file.gains if file.is_measured else ()
    times = time_lines(file.rows, "sglang" if file.is_down else "vllm") if figures else []
    gains = gain_lines(figures)
    legend = max(charts.legend_rows(times), charts.legend_rows(gains))
    keys = list(dict.fromkeys(key for entry in file.entries.values() for key in entry))
    return {
        "file": file, "figures": figures, "times": times, "keys": keys, "beside": beside(file, files),
        "time_chart": Markup(charts.time_chart("time", f"Time of {title_of(file)} by batch size", times, legend)),
        "gain_chart": Markup(charts.gain_chart("gain", f"Gain of {title_of(file)} by batch size", gains, legend)),
        "launch_rows": launch_rows(file.entries, keys), "facts": facts(file), "exports": exports(file, repository),
        "call": loader_call(file), "download": download(file, repository),
        "readers": [(model, slugs.get(model.partition(" ")[0])) for model in file.known.models],
    }  # fmt: skip


@dataclass(frozen=True)
class Neighbours:
    """Files of the same workload. other_half: for down alone where this one isn't, else what it lies beside.

    others: under the same name in other folders. judged: SGLang's newest bench, where it read both halves.
    """

    other_half: TunedFile | None
    others: tuple[TunedFile, ...]
    judged: EngineChecked | None


def beside(file: TunedFile, files: Iterable[TunedFile]) -> Neighbours:
    wanted = up_of(file.path) if file.is_down else down_of(file.path)
    other_half = next((each for each in files if each.path == wanted), None)
    others = tuple(each for each in files if each.name == file.name and each.path != file.path)
    judged = newest_of_engines(file.record, lambda line: line.engine == "sglang" and other_half is not None)
    return Neighbours(other_half, others, next(judged, None))


def time_lines(rows: Mapping[int, RecordedRow], alone: str = "vllm") -> list[charts.Curve]:
    """Medians in µs: file and heuristic on each engine's kernel that was measured, then the floor.

    alone: the engine of rows that don't tell engines apart.
    """
    found: dict[tuple[str, str], dict[int, float]] = {}
    for num_tokens, row in rows.items():
        if row.by_engine:
            for engine, pair in row.by_engine.items():
                name = ENGINE_NAMES.get(engine, engine)
                style = "tuned" if engine == "vllm" else f"{engine} tuned"
                found.setdefault((f"this file on {name}'s kernel", style), {})[num_tokens] = pair.latency_us.median
                found.setdefault((f"{name}'s heuristic", engine), {})[num_tokens] = pair.baseline_us.median
        else:
            style = "tuned" if alone == "vllm" else f"{alone} tuned"
            found.setdefault(("this file", style), {})[num_tokens] = row.latency_us.median
            key = f"{ENGINE_NAMES[alone]}'s heuristic", alone
            found.setdefault(key, {})[num_tokens] = row.baseline_us.median
            for engine, latency in row.baselines.items():
                key = f"{ENGINE_NAMES.get(engine, engine)}'s heuristic", engine
                found.setdefault(key, {})[num_tokens] = latency.median
        if row.floor_us is not None:
            found.setdefault(("floor", "floor"), {})[num_tokens] = row.floor_us
    lines = [charts.Curve(label, style, values) for (label, style), values in found.items()]
    return sorted(lines, key=lambda line: line.style == "floor")


def label_of(gain: Gain) -> str:
    """A table's column."""
    return f"over {ENGINE_NAMES[gain.engine]}'s heuristic, {_ROUTINGS[gain.routing]}"


def gain_lines(figures: Sequence[Gain]) -> list[charts.Curve]:
    """A line an engine and routing; skewed ones stand back."""
    is_uniform = all(gain.is_uniform for gain in figures)
    return [
        charts.Curve(
            f"over {ENGINE_NAMES[gain.engine]}'s heuristic"
            if is_uniform
            else f"{ENGINE_NAMES[gain.engine]}, {gain.routing.replace('_', ' ')}",
            f"{_STANDS_BACK.get(gain.routing, '')} {gain.engine}".strip(),
            gain.ratios,
        )
        for gain in figures
    ]


def launch_rows(
    entries: Mapping[int, Mapping[str, Any]], keys: Sequence[str]
) -> list[tuple[int, list[tuple[str, bool]]]]:
    """A row a batch size: each value, and whether it differs from the one above."""
    rows, before = list[tuple[int, list[tuple[str, bool]]]](), dict[str, str]()
    for num_tokens, entry in sorted(entries.items()):
        now = {key: str(entry.get(key, "–")) for key in keys}
        rows.append((num_tokens, [(now[key], bool(before) and now[key] != before[key]) for key in keys]))
        before = now
    return rows


def facts(file: TunedFile) -> list[tuple[str, str]]:
    """The record, a line a fact."""
    record = file.record
    if record is None:
        return []
    found = [("Evidence", file.known.evidence or "none"), ("Date", record.date)]
    if record.verified and file.known.evidence == "verified":
        said = record.verified
        found += [("Verified", f"{said.date} on {said.runner}, at commit {said.commit[:12]}"), ("Run", said.run_url)]
    found += [("Source", record.source.value)]
    found += [("Attribution", record.attribution)] if record.attribution else []
    for shape in record.shapes:
        found.append(("Shape", f"{shape.shape}" + (f": {', '.join(shape.models)}" if shape.models else "")))
    if (where := record.environment) is not None:
        found += [
            ("GPU", f"{where.device_name}, compute capability {where.compute_capability}, {where.sm_count} units"),
            ("Software", f"Triton {where.triton}, PyTorch {where.torch}, CUDA or ROCm {where.cuda or 'not known'}, "
             f"driver {where.driver or 'not known'}, Python {where.python}"),
        ]  # fmt: skip
    if (tuner := record.tuner) is not None:
        outcomes = ", ".join(f"{count} {status}" for status, count in tuner.outcomes.items())
        found += [
            ("Cost of tuning", f"{tuner.seconds:.0f} s, {tuner.kernels_compiled} kernels compiled, "
             f"{tuner.measurements} measurements"),
            ("Outcomes", outcomes),
        ]  # fmt: skip
    for engine, version in (record.heuristics or {}).items():
        found.append((f"{ENGINE_NAMES.get(engine, engine)}'s heuristic", f"{version.version}, {version.sha256}"))
    decisions = Counter(row.decision.value for row in record.rows.values())
    found += [("Decisions", ", ".join(f"{count} {name}" for name, count in decisions.items()))] if decisions else []
    found += [("Method", record.rule)] if record.rule else []
    found += [("Kernel's hash", record.kernel_sha256)] if record.kernel_sha256 else []
    return [*found, ("File's SHA-256", record.config_sha256)]


def exports(file: TunedFile, repository: str) -> list[tuple[str, str]]:
    """Engine and the lines that have it read the file; of engines that ask for such a name.

    A measured file is for the engines that it was measured for: no model has the others ask for it.
    """
    found = []
    for engine in file.known.ratios or ENGINE_NAMES:
        try:
            name = spelled(file.name, engine)
        except ValueError:
            continue
        if file.workload and not parse_file_name(name, Layout(engine)).faults:
            command = export_command(engine, Path(file.path))
            found.append((engine, f"{install_line(repository)}\n{command}"))
    return found


def loader_call(file: TunedFile) -> str:
    """Python that reads the file's entry for its middle batch size; empty: no call does."""
    workload = file.workload
    if workload is None or not file.entries:
        return ""
    sizes = list(file.entries)
    arguments = [str(sizes[len(sizes) // 2]), f"E={workload.E}", f"N={workload.N}"]
    arguments += [f"dtype={workload.dtype!r}"] if workload.dtype else []
    arguments += [f"block_shape={workload.block_shape!r}"] if workload.block_shape else []
    arguments += ["per_channel_quant=True"] if workload.per_channel_quant else []
    arguments += ["down=True"] if workload.down else []
    arguments += [f"device_name={workload.device_name!r}"]
    arguments += [f"triton_version={file.known.triton or REFERENCE_TRITON!r}"]
    return f"from fused_moe_configs import get_config\n\nget_config({', '.join(arguments)})"


def download(file: TunedFile, repository: str) -> str:
    """The file's address and its SHA-256."""
    return f"{repository}/raw/main/configs/{quote(file.path)}\nsha256 {file.known.sha256 or 'not known'}"


def model_slugs(models: Iterable[Model], slugs: Mapping[str, str]) -> dict[str, str]:
    """The slug of a model's page by each of its ids."""
    return {name: slugs[model.id] for model in models for name in model.ids}
