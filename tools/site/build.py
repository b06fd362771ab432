"""The whole site as bytes by path: every page, its data, the pictures for the README. Then into a folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from tools.errors import UserError
from tools.registry.devices import Device, DeviceRegistry, load_devices
from tools.registry.engines import load_engines
from tools.registry.models import ModelRegistry, load_models
from tools.site import boards, charts, coverage, overview, render, server
from tools.site.coverage import Line
from tools.site.files import TunedFile, read_files, slug_of, unique_slugs
from tools.site.measurements import EnginesTimes, Surveyed, engines_times, read_surveys
from tools.site.questions import Questions

ASSETS = Path(__file__).parent / "assets"
MANIFEST = "site.json"
"""What a build wrote: the next one into the same folder clears it away."""


@dataclass(frozen=True)
class Sources:
    """configs: the store's folder. measurements: of documents. repository: its address. revision: the commit, or ""."""

    configs: Path
    measurements: Path
    repository: str
    revision: str = ""


@dataclass(frozen=True)
class Known:
    """All that pages are made of."""

    sources: Sources
    models: ModelRegistry
    devices: DeviceRegistry
    files: tuple[TunedFile, ...]
    beside: Mapping[str, tuple[EnginesTimes, ...]]
    surveys: tuple[Surveyed, ...]
    slugs: Mapping[str, str]
    """Of models' pages, by the id that stands for them."""
    columns: tuple[Device, ...]
    """The GPUs of the first page."""


def know(sources: Sources) -> Known:
    """RegistryError: a registry can't be used. ConfigError: a folder of the store can't be listed."""
    registry = sources.configs / "registry"
    models, devices = load_models(registry / "models.json"), load_devices(registry / "devices.json")
    files = read_files(sources.configs)
    return Known(
        sources, models, devices, files, engines_times(sources.measurements, files),
        read_surveys(sources.measurements), unique_slugs(model.id for model in models),
        coverage.columns_of(devices, models, files),
    )  # fmt: skip


def pages(known: Known) -> Iterator[tuple[str, bytes]]:
    """Path below the site's root and content, one after the other: a large store's needn't all be held."""
    environment = render.environment(known.sources.repository, known.sources.revision)
    environment.globals["alsos"] = {model.id: model.also for model in known.models}
    lines: list[Line] = []
    for name, content, found in _of_models(known, environment):
        lines += found
        yield name, content
    lines.sort(key=lambda line: (line.model.casefold(), line.tp, line.ep))
    yield from _of_files(known, environment)
    yield from _of_gpus(known, environment, lines)
    yield from _overviews(known, environment, lines)
    for path in sorted(ASSETS.iterdir()):
        yield f"assets/{path.name}", path.read_bytes()
    yield ".nojekyll", b""


def _of_models(known: Known, environment: Environment) -> Iterator[tuple[str, bytes, tuple[Line, ...]]]:
    releases = load_engines(known.sources.configs / "registry" / "engines.json")
    questions = Questions(
        known.sources.configs, known.models, known.devices, releases, known.files, known.surveys
    )
    template = environment.get_template("model.html")
    for model in known.models:
        slug, rows = known.slugs[model.id], tuple(questions.rows(model))
        answers = server.document(model, rows, known.sources.repository)
        yield f"data/models/{slug}.json", _json(answers), coverage.lines_of(model, slug, rows)
        page = template.render(
            root="../", model=model, slug=slug, places=render.places_of(rows), devices=known.columns
        )
        yield f"models/{slug}.html", page.encode(), ()


def _of_files(known: Known, environment: Environment) -> Iterator[tuple[str, bytes]]:
    template, slugs = environment.get_template("file.html"), render.model_slugs(known.models, known.slugs)
    for file in known.files:
        given = render.of_file(file, known.beside.get(file.path, ()), slugs, known.sources.repository)
        yield f"files/{file.slug}.html", template.render(root="../", **given).encode()


def _of_gpus(known: Known, environment: Environment, lines: list[Line]) -> Iterator[tuple[str, bytes]]:
    template, held = environment.get_template("gpu.html"), Counter[str]()
    for file in known.files:
        if file.device_name and (device := known.devices.get(file.device_name)):
            held[device.name] += 1
    for device in known.devices:
        slug = slug_of(device.name)
        yield f"gpus/{slug}.html", template.render(root="../", device=device, lines=lines).encode()
        yield f"gpus/{slug}.csv", coverage.to_csv(coverage.records(lines, [device])).encode()
    page = environment.get_template("gpus.html").render(root="../", gpus=known.devices.devices, held=held)
    yield "gpus/index.html", page.encode()


def _overviews(known: Known, environment: Environment, lines: list[Line]) -> Iterator[tuple[str, bytes]]:
    def page(name: str, **given: Any) -> tuple[str, bytes]:
        return name, environment.get_template(name).render(here=name, **given).encode()

    gains, tallies = boards.largest_gains(known.files), boards.tally(lines, known.columns)
    yield page(
        "index.html", files=known.files, measured=gains, best=next(iter(gains), None), tallies=tallies, lines=lines,
        devices=known.columns, gpus=known.devices.devices,
    )  # fmt: skip
    releases = load_engines(known.sources.configs / "registry" / "engines.json")
    yield page(
        "server.html", owners=_owners(known), releases=sorted(releases, key=lambda each: each.name != "vllm"),
        gpus=known.devices.devices, devices=known.columns,
        known_models=[(model, known.slugs[model.id]) for model in known.models],
    )  # fmt: skip
    wanted = boards.most_wanted(lines, known.columns)
    yield page(
        "boards.html", wanted=wanted[: boards.MOST_WANTED], wanted_more=len(wanted[boards.MOST_WANTED :]),
        surveyed=boards.losing(known.surveys), gains=gains[: boards.MOST_GAINS],
        gains_chart=Markup(overview.gains_chart(gains)), negatives=boards.negatives(known.files, known.beside),
    )  # fmt: skip
    tritons, fresh = boards.freshness(known.files)
    yield page("freshness.html", tritons=tritons, fresh=fresh)
    yield page("method.html")
    yield "404.html", environment.get_template("missing.html").render(root="").encode()
    records = list(coverage.records(lines, known.columns))
    yield "coverage.json", _json({"columns": coverage.COLUMNS, "rows": [list(each.values()) for each in records]})
    yield "coverage.csv", coverage.to_csv(records).encode()
    style = charts.standalone_style()
    yield "charts/gains.svg", overview.gains_chart(gains, style).encode()
    yield "charts/coverage.svg", overview.coverage_chart(tallies, style).encode()


def _owners(known: Known) -> list[tuple[str, list[tuple[str, str]]]]:
    """Owner → (id, slug), for a select: every id that the registry knows."""
    by_owner: dict[str, list[tuple[str, str]]] = {}
    for name, slug in render.model_slugs(known.models, known.slugs).items():
        by_owner.setdefault(name.partition("/")[0], []).append((name, slug))
    return [(owner, sorted(ids, key=lambda each: each[0].casefold())) for owner, ids in
            sorted(by_owner.items(), key=lambda item: item[0].casefold())]  # fmt: skip


def _json(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def write(known: Known, out: Path) -> int:
    """Writes the site into a new folder, an empty one, or one with an earlier build; returns how many files.

    UserError: something else is in it. OSError: it can't be written.
    """
    _clear(out)
    written = []
    for name, content in pages(known):
        path = out / PurePosixPath(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        written.append(name)
    (out / MANIFEST).write_bytes(_json({"revision": known.sources.revision, "files": sorted(written)}))
    return len(written) + 1


def _clear(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: expected a folder, found a file. Fix: name another.")
    if not out.exists() or not any(out.iterdir()):
        return
    fault = UserError(f"{out}: expected a new folder, or the site in it, found other files. Fix: name another folder.")
    try:
        names = json.loads((out / MANIFEST).read_bytes())["files"]
        paths = [out / PurePosixPath(name) for name in names]
    except (OSError, ValueError, KeyError, TypeError):
        raise fault from None
    root = out.resolve()
    if any(root not in path.parent.resolve().parents and path.parent.resolve() != root for path in paths):
        raise fault
    for path in [*paths, out / MANIFEST]:
        path.unlink(missing_ok=True)
