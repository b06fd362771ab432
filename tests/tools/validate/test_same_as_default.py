"""A version file that says what the default says only makes the store larger."""

from __future__ import annotations

import pytest

from tests.builders import Store, table
from tools.findings import Severity
from tools.validate.rules.same_as_default import RULE


def test_a_version_file_like_the_default_is_a_warning(store: Store) -> None:
    store.config()
    path = store.config(dict(reversed(table().items())), folder="triton_3_6_0")
    (finding,) = store.findings(RULE)
    assert finding.severity is Severity.WARNING
    assert finding.path.endswith(f"triton_3_6_0/{path.name}")


def test_one_that_differs_earns_its_place(store: Store) -> None:
    store.config()
    store.config(table(num_stages=4), folder="triton_3_6_0")
    assert store.findings(RULE) == []


def test_so_does_one_without_a_default(store: Store) -> None:
    store.config(folder="triton_3_6_0")
    store.config(folder="triton_3_7_0")
    assert store.findings(RULE) == []


def test_legacy_files_are_not_compared(store: Store) -> None:
    store.config()
    store.config(folder="legacy_configs")
    assert store.findings(RULE) == []


@pytest.mark.parametrize("data", [b"{", b""])
def test_broken_files_are_not_compared(store: Store, data: bytes) -> None:
    store.file(data)
    store.file(data, folder="triton_3_6_0")
    assert store.findings(RULE) == []
