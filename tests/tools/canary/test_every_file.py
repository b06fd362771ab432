"""Every tuned file of this repository, exported and read with code of the engines' shape."""

from __future__ import annotations

import pytest

import fused_moe_configs
from tools.canary.__main__ import _store
from tools.canary.check import EngineReport, check
from tools.canary.engines import ENGINES
from tools.checkout import CONFIGS
from tools.launch.engine_package import open_package
from tools.store.files import discover
from tools.store.tiers import Found, Role
from tools.store.workload import Layout, parse_file_name

from .conftest import engine, heuristic

FILES = [file for file in discover([CONFIGS], Layout.REPO) if file.role is Role.CONFIG]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, EngineReport]:
    """Both engines over the whole of configs/, once."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("VLLM_TUNED_CONFIG_FOLDER", raising=False)
        patch.setattr("tools.canary.check.FOLLOWED", {name: heuristic(engine(name)) for name in ENGINES})
        for name in ENGINES:
            folder = tmp_path_factory.mktemp(name)
            package = open_package(name, engine(name).unpacked(folder / "package"))
            found[name] = check(ENGINES[name], package, _store(), folder / "scratch", 600.0)
    fused_moe_configs.cache_clear()
    return found


@pytest.mark.parametrize("name", list(ENGINES))
def test_the_engine_reads_every_export_as_the_loader_answers(reports: dict[str, EngineReport], name: str) -> None:
    assert reports[name].differences == ()
    files_a_question = 2 if name == "sglang" else 1  # up and down
    assert files_a_question * reports[name].asked >= reports[name].files > 0


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative) for file in FILES])
def test_every_file_has_an_engine_that_looks_for_it(file: Found) -> None:
    workload = parse_file_name(file.path.name).workload
    assert workload is not None
    named = [
        parse_file_name(workload.file_name(each.layout), each.layout) == parse_file_name(file.path.name)
        for each in ENGINES.values()
    ]
    assert any(named)
