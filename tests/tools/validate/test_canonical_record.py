"""One way to write a record; --fix writes it, and main's word stays on what it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fused_moe_configs.evidence import is_signed
from tests.builders import Store, signed, table
from tools.checkout import CONFIGS
from tools.store.files import canonical_record
from tools.store.record import Record
from tools.store.workload import Layout
from tools.validate import fixer
from tools.validate.rules.canonical_record import RULE


@pytest.fixture
def record(store: Store) -> Path:
    """A sound measured one."""
    return store.measured(store.config(table()))


def document(record: Path) -> dict[str, Any]:
    return json.loads(record.read_bytes())


def indented(document: Any, indent: int | None = 4) -> bytes:
    return json.dumps(document, indent=indent).encode() + b"\n"


def test_what_the_store_writes_is_canonical(store: Store, record: Path) -> None:
    assert store.findings(RULE) == []


def test_so_are_the_shipped_ones() -> None:
    paths = sorted((CONFIGS / "records").rglob("*.json"))
    assert paths
    for path in paths:
        assert Record.read(json.loads(path.read_bytes())).to_bytes() == path.read_bytes(), path


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (lambda found: indented(found, None), "line 1"),
        (lambda found: indented(found, 2), "line 2"),
        (lambda found: indented(found) + b"\n", "line ends or the end of the file"),
        (lambda found: indented(dict(reversed(found.items()))), "line 2"),
        (lambda found: indented({key: found[key] for key in found if key != "verified"}), "line "),
    ],
    ids=["one line", "two spaces", "an empty line", "another order", "without a key that is always written"],
)
def test_any_other_form_is_found_and_fix_mends_it(store: Store, record: Path, spoil: Any, where: str) -> None:
    sound = record.read_bytes()
    record.write_bytes(spoil(document(record)))
    (finding,) = store.findings(RULE)
    assert finding.path == str(record)
    assert finding.message.startswith(f"expected the store's canonical bytes, found a difference at {where}")
    assert finding.fix == "run with --fix"
    assert fixer.fix([store.root], Layout.REPO).rewritten == (record,)
    assert record.read_bytes() == sound
    assert store.findings() == []
    assert fixer.fix([store.root], Layout.REPO).rewritten == ()


def test_a_record_named_alone_is_mended_and_its_file_left(store: Store, record: Path) -> None:
    config = store.root / record.name
    config.write_bytes(indented(table(), 2))
    store.measured(config)
    record.write_bytes(indented(document(record), None))
    assert [finding.rule for finding in store.findings(paths=[record])] == [RULE.name]
    assert fixer.fix([record], Layout.REPO).rewritten == (record,)
    assert config.read_bytes() == indented(table(), 2)
    assert store.findings(paths=[record]) == []


def test_mains_word_stays_where_only_spaces_and_order_change(store: Store, record: Path) -> None:
    found = signed(document(record))
    record.write_bytes(indented(dict(reversed(found.items())), 2))
    fixer.fix([store.root], Layout.REPO)
    assert is_signed(document(record))
    assert record.read_bytes() == canonical_record(found)


def test_where_it_would_speak_of_other_evidence_the_record_stays(store: Store, record: Path) -> None:
    found = document(record)
    del found["workload"]["down"]
    record.write_bytes(indented(signed(found)))
    (finding,) = store.findings(RULE)
    assert finding.fix == "set verified to null, then run with --fix"
    assert fixer.fix([store.root], Layout.REPO).rewritten == ()
    record.write_bytes(indented({**found, "verified": None}))
    assert fixer.fix([store.root], Layout.REPO).rewritten == (record,)
    assert store.findings() == []


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"verified": {"evidence_sha256": 3}}'])
def test_what_is_broken_is_another_rules(store: Store, record: Path, data: bytes) -> None:
    record.write_bytes(data)
    assert store.findings(RULE) == []
    assert fixer.fix([store.root], Layout.REPO).rewritten == ()
    assert record.read_bytes() == data


def test_one_that_can_not_be_written_is_a_finding(store: Store, record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record.write_bytes(indented(document(record), 2))

    def refuse(path: Path, data: bytes) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(fixer, "write_file", refuse)
    (finding,) = fixer.fix([store.root], Layout.REPO).failures
    assert (finding.rule, finding.path) == (RULE.name, str(record))
    assert "--fix can't write" in finding.message
