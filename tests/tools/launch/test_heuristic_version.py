"""Which heuristic figures are of: the same name for the same code, and never that of one that was not timed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.tools.canary.conftest import FakeEngine, engine
from tools.errors import UserError
from tools.launch import heuristic_version, heuristics
from tools.launch.engine_package import LOOK_UP_MODULES, Package, installed_package
from tools.launch.heuristic_version import (
    FOLLOWED,
    HeuristicVersion,
    default_function,
    is_current,
    measured_heuristics,
    outdated,
    sha256_of_cut,
    table_sha256,
)
from tools.launch.source_cut import CutError, cut
from tools.store.record import Record, Source
from tools.store.workload import Workload

VLLM = LOOK_UP_MODULES["vllm"][0]
SOURCE = '''
import vllm.envs as envs
from vllm.platforms import current_platform
from vllm.utils import rounded

LIMIT = 32

def unrelated():
    return nothing

def get_default_config(M: int, dtype: str | None) -> dict[str, int]:
    """Says what runs."""
    if envs.INVARIANT or current_platform.is_rocm():
        return {"BLOCK_SIZE_M": 64}
    size: int = 16 if M <= LIMIT else rounded(M)  # narrow
    return {"BLOCK_SIZE_M": size}
'''
HELPERS = "def rounded(n: int) -> int:\n    return n // 2 * 2\n"


def sha256(source: str = SOURCE, helpers: str = HELPERS) -> str:
    modules = {VLLM: source, "vllm/utils/__init__.py": helpers}
    return sha256_of_cut(default_function(modules.get, "vllm"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  # narrow", ""),
        ('    """Says what runs."""\n', ""),
        ("Says what runs.", "Says nothing."),
        ("size: int = 16", "size = 16"),
        ("M: int, dtype: str | None) -> dict[str, int]:", "M, dtype):"),
        ('{"BLOCK_SIZE_M": size}', '{\n        "BLOCK_SIZE_M": (size),\n    }'),
        ("LIMIT = 32", "LIMIT: int = 0x20"),
        ("    return nothing", "    return something"),
    ],
)
def test_prose_formatting_annotations_and_other_code_do_not_count(old: str, new: str) -> None:
    assert old in SOURCE
    assert sha256(SOURCE.replace(old, new)) == sha256()


def test_the_place_does_not_count() -> None:
    head, limit = SOURCE.split("LIMIT = 32\n")
    assert sha256(head + limit + "\nLIMIT = 32\n") == sha256()
    modules = {LOOK_UP_MODULES["sglang"][place]: "def get_default_config(M): return {}" for place in (0, 1)}
    found = [default_function({place: source}.get, "sglang") for place, source in modules.items()]
    assert sha256_of_cut(found[0]) == sha256_of_cut(found[1])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("else rounded", "else 2 * rounded"),
        ("LIMIT = 32", "LIMIT = 64"),
        ("<= LIMIT", "< LIMIT"),
        ("dtype: str | None)", "dtype=None)"),
    ],
)
def test_code_and_constants_count(old: str, new: str) -> None:
    assert old in SOURCE
    assert sha256(SOURCE.replace(old, new)) != sha256()


def test_a_function_that_it_calls_counts_too() -> None:
    assert sha256(helpers=HELPERS.replace("// 2 * 2", "// 4 * 4")) != sha256()


def test_what_needs_more_of_the_engine_than_is_known_has_no_hash() -> None:
    with pytest.raises(CutError, match=r"found nsm \(nothing of that name\)"):
        sha256(SOURCE.replace("rounded(M)", "nsm.rounded(M)"))


# Our own table


@pytest.mark.parametrize("name", list(FOLLOWED))
def test_our_table_is_named_by_what_it_says_and_not_by_how_it_refuses(name: str) -> None:
    source = Path(heuristics.__file__).read_text("utf-8")
    wanted, stand_ins = [heuristics.TABLES[name]], {"LaunchConfig", "TRITON_DEFAULTS"}
    taken = cut(lambda _: source, ["here.py"], wanted, stand_ins).taken
    assert "_check" not in taken
    assert (set(taken) & {"_SMALL_SMEM_BYTES", "_band", "clamped", "_vllm_block"}) == (
        {"_band", "clamped", "_vllm_block"} if name == "vllm" else {"_SMALL_SMEM_BYTES"}
    )


def test_each_engine_has_its_own() -> None:
    assert table_sha256("vllm") != table_sha256("sglang")


@pytest.mark.parametrize("name", list(FOLLOWED))
def test_what_is_timed_today_is_our_table_and_the_release_that_it_follows(name: str) -> None:
    assert is_current(name, table_sha256(name))
    assert is_current(name, FOLLOWED[name].sha256)
    assert not is_current(name, "0" * 64)


def test_a_record_of_another_heuristic_is_outdated_and_one_that_does_not_say_is_not() -> None:
    record = Record(Workload(8, 64, "D"), (), Source.MEASURED, "0" * 64, "2026-01-01")
    assert outdated(record) == ()
    today = measured_heuristics(lambda _: None).versions
    assert outdated(Record(**{**vars(record), "heuristics": today})) == ()
    other = HeuristicVersion("0.1.0", "0" * 64)
    assert outdated(Record(**{**vars(record), "heuristics": {**today, "sglang": other}})) == ("SGLang",)


# What is installed


def package(source: str, version: str = "9.8.7") -> Package:
    return Package("vllm", version, {VLLM: source, "vllm/utils/__init__.py": HELPERS}.get)


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, HeuristicVersion]:
    """As if our table followed `SOURCE`."""
    versions = {**FOLLOWED, "vllm": HeuristicVersion("9.8.0", sha256())}
    monkeypatch.setattr(heuristic_version, "FOLLOWED", versions)
    return versions


def found(package: Package | None) -> tuple[HeuristicVersion, tuple[str, ...]]:
    here = measured_heuristics(lambda name: package if name == "vllm" else None)
    return here.versions["vllm"], here.notes


def test_without_an_engine_it_is_our_table_of_the_release_that_it_follows(followed) -> None:
    assert found(None) == (HeuristicVersion("9.8.0", table_sha256("vllm")), ())


def test_an_installed_engine_with_the_same_function_names_its_own_release(followed) -> None:
    assert found(package(SOURCE)) == (HeuristicVersion("9.8.7", sha256()), ())


@pytest.mark.parametrize("version", ["of unknown version", "1!9.8.7"])
def test_a_version_that_no_record_can_hold_is_that_of_the_same_function(followed, version: str) -> None:
    assert found(package(SOURCE, version)) == (followed["vllm"], ())


@pytest.mark.parametrize("source", ["", "def ("])
def test_an_installed_engine_whose_function_cannot_be_read_is_said_with_the_reason(followed, source: str) -> None:
    version, (note,) = found(package(source))
    assert version == HeuristicVersion("9.8.0", table_sha256("vllm"))
    assert note.startswith(
        "vLLM 9.8.7 is installed; whether it runs the heuristic that was timed, that of 9.8.0, can't be told: "
    )


def test_an_installed_engine_with_another_function_was_not_what_was_timed(followed) -> None:
    version, notes = found(package(SOURCE.replace("16", "32")))
    assert version == HeuristicVersion("9.8.0", table_sha256("vllm"))
    assert notes == (
        "vLLM 9.8.7 is installed; what it runs without a file isn't the heuristic that was timed, that of 9.8.0",
    )


def test_a_source_that_cannot_be_read_was_not_what_was_timed(followed) -> None:
    def read(_: str) -> str:
        raise UserError("no text")

    assert found(Package("vllm", "9.8.7", read))[0].version == "9.8.0"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that Python imports from."""
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield tmp_path
    assert "vllm" not in sys.modules, "nothing of it is imported"


def test_an_installed_package_is_found_and_not_imported(site: Path) -> None:
    vllm = engine("vllm")
    changed = FakeEngine("vllm", {**vllm.modules, "vllm/__init__.py": "raise SystemExit(3)\n"})
    changed.unpacked(site)
    package = installed_package("vllm")
    assert package is not None
    assert (package.name, package.version) == ("vllm", "9.8.7")
    assert package.read(VLLM) == vllm.modules[VLLM]
    assert package.read("vllm/nothing.py") is None


def test_a_folder_of_that_name_is_no_installation(site: Path) -> None:
    (site / "vllm").mkdir()
    assert installed_package("vllm") is None


def test_what_is_not_here_is_none() -> None:
    assert installed_package("no_such_engine") is None
