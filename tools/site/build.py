"""The whole site as bytes by path: every page, its data, the pictures for the README. Then into a folder."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from jinja2 import Environment
from markupsafe import Markup

from fused_moe_configs.backends import EngineRelease
from fused_moe_configs.naming import ENGINE_NAMES
from tools.child_process import SharedMap, workers
from tools.errors import UserError
from tools.portfolio.today import shipped_by
from tools.portfolio.wanted import Shipped, wanted_on
from tools.registry.devices import Device, DeviceRegistry, load_devices
from tools.registry.engines import load_engines
from tools.registry.models import Model, ModelRegistry, load_models
from tools.site import boards, charts, coverage, overview, render, server
from tools.site.coverage import Line
from tools.site.files import TunedFile, files_in, read_files, slug_of, unique_slugs
from tools.site.questions import Questions
from tools.site.surveys import Surveyed, Whole, files_of, read_surveys, wholes
from tools.store.files import write_file

T = TypeVar("T")
CHUNKS = 4
ASSETS = Path(__file__).parent / "assets"
PICTURES = ("charts/gains.svg", "charts/coverage.svg")
"""What the README shows."""
MANIFEST = "site.json"
"""What a build wrote: the next one into the same folder clears it away."""


@dataclass(frozen=True)
class Sources:
    """configs: the store's folder. measurements: of surveys. repository: its address. revision: the commit, or ""."""

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
    surveyed: tuple[Surveyed, ...]
    surveys: tuple[Whole, ...]
    shipped: Mapping[str, tuple[Shipped, ...]]
    """By device of the first page, what portfolio ranks by."""
    slugs: Mapping[str, str]
    """Of models' pages, by the id that stands for them."""
    columns: tuple[Device, ...]
    """The GPUs of the first page."""
    faults: tuple[str, ...]
    """A line for each of the sources that is broken, and isn't in it."""


@contextlib.contextmanager
def _shared_by(jobs: int) -> Iterator[SharedMap]:
    """Processes that share the work, where there is more than one of them."""
    if jobs <= 1:
        yield map
        return
    with workers(jobs) as each:
        yield each


def know(sources: Sources, each: SharedMap = map) -> Known:
    """RegistryError: a registry can't be used. ConfigError: a folder of the store can't be listed."""
    registry = sources.configs / "registry"
    models, devices = load_models(registry / "models.json"), load_devices(registry / "devices.json")
    places = files_in(sources.configs)
    files = tuple(file for chunk in each(read_files, _chunks(places)) for file in chunk)
    columns = coverage.columns_of(devices, models, files)
    surveys, faults = read_surveys(sources.measurements)
    shipped = {device.name: shipped_by(surveys, device) for device in columns}
    slugs = unique_slugs(model.id for model in models)
    return Known(sources, models, devices, files, files_of(surveys), wholes(surveys), shipped, slugs, columns, faults)


def pages(known: Known, each: SharedMap = map) -> Iterator[tuple[str, bytes]]:
    """Path below the site's root and content."""
    environment, columns = _environment(known), [device.name for device in known.columns]
    # Neighbours ask for the same files, so a chunk is of neighbours. Other pages are made meanwhile.
    light = replace(known, files=tuple(replace(file, record=None, entries={}, gains=()) for file in known.files))
    waiting = each(partial(of_models, light), _chunks(known.models.models))
    yield from _of_files(known, environment)
    lines = list[Line]()
    for found in waiting:
        yield from found.pages
        lines += found.lines
    lines = coverage.in_order(lines, columns)
    chunks = _chunks(known.devices.devices)
    of_chunks = [(chunk, coverage.only_on(lines, [device.name for device in chunk])) for chunk in chunks]
    gpus = each(partial(of_gpus, light), of_chunks)
    yield from _overviews(known, environment, lines)
    for some in gpus:
        yield from some
    for path in sorted(ASSETS.iterdir()):
        yield f"assets/{path.name}", path.read_bytes()
    yield ".nojekyll", b""


def releases_of(sources: Sources) -> list[EngineRelease]:
    """vLLM's first, and of an engine the newest."""
    newest_first = load_engines(sources.configs / "registry" / "engines.json")[::-1]
    return sorted(newest_first, key=lambda release: list(ENGINE_NAMES).index(release.name))


def _chunks(items: Sequence[T]) -> list[tuple[T, ...]]:
    """Enough for some processes, and few enough that each is worth its way there."""
    size = -(-len(items) // CHUNKS) or 1
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]


def _environment(known: Known) -> Environment:
    found = render.environment(known.sources.repository, known.sources.revision)
    found.globals["alsos"] = {model.id: model.also for model in known.models}
    return found


@dataclass(frozen=True)
class OfModels:
    """Pages and data of some models, and their lines of the matrix."""

    pages: tuple[tuple[str, bytes], ...]
    lines: tuple[Line, ...]


def of_models(known: Known, models: Sequence[Model]) -> OfModels:
    """May run in a process of its own."""
    sources = known.sources
    releases = releases_of(sources)
    questions = Questions(sources.configs, known.devices, releases, known.files, known.surveyed)
    template, found, lines = _environment(known).get_template("model.html"), list[tuple[str, bytes]](), list[Line]()
    for model in models:
        slug, rows = known.slugs[model.id], tuple(questions.rows(model))
        given = {"model": model, "slug": slug, "places": render.places_of(rows), "devices": known.columns}
        found.append((f"data/models/{slug}.json", _json(server.document(model, rows, sources.repository))))
        found.append((f"models/{slug}.html", template.render(root="../", **given).encode()))
        lines += coverage.lines_of(model, slug, rows)
    return OfModels(tuple(found), tuple(lines))


def _of_files(known: Known, environment: Environment) -> Iterator[tuple[str, bytes]]:
    template, slugs = environment.get_template("file.html"), render.model_slugs(known.models, known.slugs)
    for file in known.files:
        given = render.of_file(file, slugs, known.sources.repository, known.files)
        yield f"files/{file.slug}.html", template.render(root="../", **given).encode()


def of_gpus(known: Known, given: tuple[Sequence[Device], Sequence[Line]]) -> list[tuple[str, bytes]]:
    """A page a GPU. May run in a process of its own."""
    devices, lines = given
    environment = _environment(known)
    template, heads = environment.get_template("gpu.html"), render.row_heads(environment, lines, "../")
    found = []
    for device in devices:
        page = template.render(root="../", device=device, lines=lines, heads=heads)
        found.append((f"gpus/{slug_of(device.name)}.html", page.encode()))
    return found


def _overviews(known: Known, environment: Environment, lines: Sequence[Line]) -> Iterator[tuple[str, bytes]]:
    def page(name: str, **given: Any) -> tuple[str, bytes]:
        return name, environment.get_template(name).render(here=name, **given).encode()

    wanted = [wanted_on(device, known.models, known.shipped[device.name]) for device in known.columns]
    states = coverage.States(lines)
    gains, tallies = boards.largest_gains(known.files), boards.tally(wanted, states)
    yield page(
        "index.html", files=overview.by_gpu(known.files), measured=[file for file in known.files if file.is_measured],
        best=next(iter(gains), None), tallies=tallies, lines=lines,
        heads=render.row_heads(environment, lines, ""),
        devices=known.columns, gpus=known.devices.devices,
    )  # fmt: skip
    yield page(
        "server.html", owners=_owners(known), releases=releases_of(known.sources),
        gpus=known.devices.devices, devices=known.columns,
        known_models=[(model, known.slugs[model.id]) for model in known.models],
    )  # fmt: skip
    holes = boards.holes(wanted, states, known.slugs, known.surveyed, known.surveys)
    yield page(
        "boards.html", wanted=holes[: boards.MOST_WANTED], wanted_more=len(holes[boards.MOST_WANTED :]),
        shipped=boards.what_engines_ship(known.surveys, known.surveyed), gains=gains[: boards.MOST_GAINS],
        gains_more=len(gains[boards.MOST_GAINS :]),
        gains_chart=Markup(overview.gains_chart(gains)), negatives=boards.negatives(known.files),
    )  # fmt: skip
    held = coverage.held_by(known.devices, known.files)
    index = environment.get_template("gpus.html").render(root="../", gpus=known.devices.devices, held=held)
    yield "gpus/index.html", index.encode()
    tritons, fresh = boards.freshness(known.files)
    yield page("freshness.html", tritons=tritons, fresh=fresh)
    yield page("method.html")
    # It stands for a missing page at any depth. Project pages lie below the repository's name.
    top = f"/{known.sources.repository.rstrip('/').rpartition('/')[2]}/"
    yield "404.html", environment.get_template("missing.html").render(root=top).encode()
    records = list(coverage.records(lines, known.columns))
    yield "coverage.json", _json({"columns": coverage.COLUMNS, "rows": [list(each.values()) for each in records]})
    yield "coverage.csv", coverage.to_csv(records).encode()
    style = charts.standalone_style()
    for name, drawn in zip(
        PICTURES, (overview.gains_chart(gains, style), overview.coverage_chart(tallies, style)), strict=True
    ):
        yield name, drawn.encode()


def _owners(known: Known) -> list[tuple[str, list[tuple[str, str]]]]:
    """Owner → (id, slug), for a select: every id that the registry knows."""
    by_owner: dict[str, list[tuple[str, str]]] = {}
    for name, slug in render.model_slugs(known.models, known.slugs).items():
        by_owner.setdefault(name.partition("/")[0], []).append((name, slug))
    return [(owner, sorted(ids, key=lambda each: each[0].casefold())) for owner, ids in
            sorted(by_owner.items(), key=lambda item: item[0].casefold())]  # fmt: skip


def _json(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def write(sources: Sources, out: Path, jobs: int = 1) -> tuple[int, tuple[str, ...]]:
    """Writes the site into a new folder, an empty one, or one with an earlier build: (how many files, the faults).

    An earlier build stays whole until all pages are made, and what an interrupted one wrote the next one replaces.
    UserError: something else is in it. OSError: it can't be written. Errors of `know`.
    """
    earlier = _earlier(out)
    with _shared_by(jobs) as each:
        known = know(sources, each)
        made = dict(pages(known, each))
    _write_manifest(out, sources, {*earlier, *made})
    for name in earlier:
        (out / PurePosixPath(name)).unlink(missing_ok=True)
    for name, content in made.items():
        path = out / PurePosixPath(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    _write_manifest(out, sources, made)
    return len(made) + 1, known.faults


def _write_manifest(out: Path, sources: Sources, names: Iterable[str]) -> None:
    write_file(out / MANIFEST, _json({"revision": sources.revision, "files": sorted(names)}))


def _earlier(out: Path) -> set[str]:
    """The files of an earlier build. UserError: it isn't a folder, or something else is in it."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: expected a folder, found a file. Fix: name another.")
    if not out.exists() or not any(out.iterdir()):
        return set()
    fault = UserError(f"{out}: expected a new folder, or the site in it, found other files. Fix: name another folder.")
    try:
        names = set(json.loads((out / MANIFEST).read_bytes())["files"])
        paths = [out / PurePosixPath(name) for name in names]
    except (OSError, ValueError, KeyError, TypeError):
        raise fault from None
    root = out.resolve()
    if any(root not in path.parent.resolve().parents and path.parent.resolve() != root for path in paths):
        raise fault
    return names
