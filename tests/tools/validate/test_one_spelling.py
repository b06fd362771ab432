"""A workload has one file a folder, however its name is spelt."""

from __future__ import annotations

from tests.builders import H100, NAME, Store
from tools.store.workload import Layout
from tools.validate.rules.one_spelling import RULE

TIGHT = f"E=8,N=1024,device_name={H100},dtype=fp8_w8a8,block_shape=[128,128].json"
SPACED = TIGHT.replace("128,128", "128, 128")


def test_different_workloads_live_side_by_side(store: Store) -> None:
    store.config()
    store.config(name=TIGHT)
    store.config(name=NAME.replace(".json", "_down.json"))
    assert store.findings(RULE) == []


def test_the_wrongly_spelt_one_of_two_is_the_fault(store: Store) -> None:
    store.config(name=TIGHT)
    store.config(name=SPACED)
    (finding,) = store.findings(RULE)
    assert finding.path.endswith(SPACED)
    assert f"found {TIGHT!r} beside it" in finding.message
    assert finding.fix == f"keep one, named {TIGHT!r}, and remove the other, its record too"


def test_each_layout_keeps_its_own_spelling(store: Store) -> None:
    for name in (TIGHT, SPACED):
        store.config(name=name, folder="triton_3_8_0", record=False)
    (finding,) = store.findings(RULE, layout=Layout.SGLANG)
    assert finding.path.endswith(TIGHT)


def test_two_wrong_spellings_are_one_fault(store: Store) -> None:
    reordered = f"E=8,N=1024,device_name={H100},block_shape=[128,128],dtype=fp8_w8a8.json"
    store.config(name=SPACED)
    store.config(name=reordered)
    assert len(store.findings(RULE)) == 1


def test_other_folders_are_other_tiers(store: Store) -> None:
    store.config(name=TIGHT)
    store.config(name=SPACED, folder="legacy_configs")
    assert store.findings(RULE) == []
