"""The README's first screen: each figure is what the surveys, the records and docs/portfolio.md say today."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from fused_moe_configs.naming import ENGINE_NAMES
from tools.checkout import CHECKOUT, MEASUREMENTS
from tools.measure.statistics import geomean
from tools.portfolio.listing import Folders, devices_of, items_of, wanted_of
from tools.portfolio.stock import GOOD, Item
from tools.portfolio.survey_board import Survey, figures, read_survey
from tools.portfolio.today import survey_paths
from tools.registry.devices import Device, normalise_device_name
from tools.registry.sharding import Engine

README = (CHECKOUT / "README.md").read_text("utf-8").splitlines()
PORTFOLIO = (CHECKOUT / "docs" / "portfolio.md").read_text("utf-8").splitlines()
LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")


def short(device_name: str) -> str:
    """H100, of NVIDIA_H100_80GB_HBM3."""
    return device_name.split("_")[1]


def newest_surveys() -> Iterator[Survey]:
    """Of each engine and GPU."""
    by_subject = {}
    for path in survey_paths(MEASUREMENTS):
        survey = read_survey(path)
        by_subject[survey.engine, survey.environment.device_name] = survey
    yield from by_subject.values()


@pytest.mark.parametrize(
    "survey", [*newest_surveys()], ids=lambda each: f"{each.engine} {each.environment.device_name}"
)
def test_what_an_engine_ships(survey: Survey) -> None:
    found, device = figures(survey.files), short(normalise_device_name(survey.environment.device_name))
    assert found.geomean is not None
    (path,) = (path for path in survey_paths(MEASUREMENTS) if read_survey(path) == survey)
    link = f"{survey.engine}-{device.lower()}"
    shipped_by = f"[{ENGINE_NAMES[survey.engine]} {survey.version}][{link}]"
    losing = f"{found.slower_files} | {found.files_with_slower_rows}"
    assert f"| {shipped_by} | {device} | {found.files} | {losing} | {found.geomean:.3f} |" in README
    assert [line for line in README if line.startswith(f"[{link}]: ") and line.endswith(f"/{path.stem}.md")]


def finished() -> Iterator[tuple[Device, list[Item]]]:
    """Of each GPU that has any."""
    folders = Folders()
    for device in devices_of([], folders):
        good = [item for item in items_of(wanted_of(device, folders), folders) if item.standing in GOOD]
        if good:
            yield device, good


@pytest.mark.parametrize(("device", "items"), [pytest.param(*each, id=each[0].name) for each in finished()])
def test_what_is_here(device: Device, items: list[Item]) -> None:
    cells = [
        short(device.name),
        str(len(items)),
        str(sum(any(e.slower for e in item.judged.values()) for item in items)),
    ]
    for engine in (Engine.VLLM, Engine.SGLANG):
        judged = [item.judged[engine] for item in items if engine in item.judged]
        shipped = [line.shipped.geomean_ratio for line in judged if line.shipped is not None]
        cells += [f"{geomean(line.geomean_ratio for line in judged):.3f}", f"{geomean(shipped):.3f} ({len(shipped)})"]
    assert f"| {' | '.join(cells)} |" in README


def test_the_portfolios_top() -> None:
    theirs = [LINK.sub(r"\1", line) for line in PORTFOLIO]
    start = theirs.index(next(line for line in theirs if line.startswith("| model |"))) + 2
    place = README.index(next(line for line in README if line.startswith("| model | H100"))) + 2
    assert len(README[place : place + 5]) == 5
    assert README[place : place + 5] == theirs[start : start + 5]


def test_what_a_file_is_worth() -> None:
    """On an engine's own kernel, the mean of its batch sizes: from the file that gains least to the one that gains
    most."""
    ratios = [line.geomean_ratio for _, items in finished() for item in items for line in item.judged.values()]
    least, most = (round(100.0 * (1.0 - ratio)) for ratio in (max(ratios), min(ratios)))
    assert f"takes {least} to {most} % less time than without one" in " ".join(README)
