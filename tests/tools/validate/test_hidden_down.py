"""A look-up takes the first file that it finds for both projections, unless a _down file lies beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import NAME, Store, table
from tools.findings import Severity
from tools.store.workload import Layout
from tools.validate.rules.hidden_down import RULE

DOWN = NAME.replace(".json", "_down.json")
VERSION = "triton_3_6_0"


@pytest.fixture
def default(store: Store) -> Path:
    """A default file with a _down file beside it."""
    store.config(name=DOWN)
    return store.config()


@pytest.mark.usefixtures("default")
class TestBeforeADefaultFileWithADownFile:
    def test_a_version_file_alone_is_a_warning(self, store: Store) -> None:
        path = store.config(table(num_stages=4), folder=VERSION)
        (finding,) = store.findings(RULE)
        assert finding.severity is Severity.WARNING
        assert finding.path.endswith(f"{VERSION}/{path.name}")
        assert f"it hides {DOWN} from SGLang" in finding.message

    def test_one_with_a_down_file_of_its_own_is_fine(self, store: Store) -> None:
        store.config(table(num_stages=4), folder=VERSION)
        store.config(table(num_stages=4), name=DOWN, folder=VERSION)
        assert store.findings(RULE) == []

    @pytest.mark.parametrize(
        ("settings", "count"), [({"separate_down": True}, 0), ({"separate_down": False}, 1), ({}, 1)]
    )
    def test_one_that_was_tuned_with_up_and_down_apart_gains_nothing_by_one(
        self, store: Store, settings: dict[str, bool], count: int
    ) -> None:
        path = store.config(table(num_stages=4), folder=VERSION)
        tuned(store, path, **settings)
        assert len(store.findings(RULE)) == count
        path.write_bytes(path.read_bytes() + b"\n")
        assert len(store.findings(RULE)) == 1, "its record is of other bytes"

    def test_a_down_file_with_descriptors_was_to_be_tried_on_the_kernel_that_has_them(self, store: Store) -> None:
        store.config(table(USE_TMA=True), name=DOWN)
        path = store.config(table(num_stages=4), folder=VERSION)
        tuned(store, path, separate_down=True)
        (finding,) = store.findings(RULE)
        assert "with --separate-down and --kernel sglang=PATH/" in finding.fix
        tuned(store, path, separate_down=True, down_kernel="sglang-0.5.23")
        assert store.findings(RULE) == []

    def test_a_broken_record_says_nothing(self, store: Store) -> None:
        path = store.config(table(num_stages=4), folder=VERSION)
        store.record_of(path).write_text("{", "utf-8")
        assert len(store.findings(RULE)) == 1


def tuned(store: Store, path: Path, **settings: object) -> None:
    tuner = {"settings": settings, "seconds": 1.0, "kernels_compiled": 1, "measurements": 1, "outcomes": {"ok": 1}}
    store.measured(path, "3.6.0", tuner=tuner)


def test_folders_of_engines_have_no_tiers_to_hide_behind(store: Store) -> None:
    store.config(), store.config(name=DOWN), store.config(table(num_stages=4), folder=VERSION)
    assert store.findings(RULE, layout=Layout.SGLANG) == []


def test_a_default_file_hides_a_legacy_one(store: Store) -> None:
    store.config()
    store.config(table(num_stages=4), folder="legacy_configs")
    store.config(table(num_stages=4), name=DOWN, folder="legacy_configs")
    (finding,) = store.findings(RULE)
    assert f"it hides legacy_configs/{DOWN} from SGLang" in finding.message


def test_without_a_down_file_nothing_is_hidden(store: Store) -> None:
    store.config()
    store.config(table(num_stages=4), folder=VERSION)
    assert store.findings(RULE) == []
