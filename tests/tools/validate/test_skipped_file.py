"""Whatever looks like a tuned file and isn't read by its engine is a warning; a README beside it is not."""

from __future__ import annotations

import pytest

from tests.builders import NAME, Store
from tools.findings import Severity
from tools.store.workload import Layout
from tools.validate.rules.skipped_file import RULE

NAMES = (NAME.replace(".json", ".JSON"), f"{NAME}.bak", ".json")


@pytest.mark.parametrize("name", [f"deeper/{NAME}", *NAMES])
def test_vllm_reads_one_flat_folder(store: Store, name: str) -> None:
    path = store.file(b"{}", name)
    (finding,) = store.findings(RULE, layout=Layout.VLLM)
    assert (finding.path, finding.severity) == (str(path), Severity.WARNING)
    assert finding.message == f"not read by vLLM {'in this place' if '/' in name else 'under this name'}"


@pytest.mark.parametrize(
    "name", [NAME, "x.json", f"triton_3_8_0/deeper/{NAME}", *(f"triton_3_8_0/{name}" for name in NAMES)]
)
def test_sglang_reads_version_folders_alone(store: Store, name: str) -> None:
    store.config(folder="triton_3_7_0")
    path = store.file(b"{}", name)
    (finding,) = [f for f in store.findings(RULE, layout=Layout.SGLANG) if "/records/" not in f.path]
    assert (finding.path, finding.severity) == (str(path), Severity.WARNING)
    assert finding.message.startswith("not read by SGLang ")


def test_a_linked_version_folder_is_named_since_it_is_not_followed(store: Store) -> None:
    store.config(folder="triton_3_7_0", record=False)
    (store.root / "triton_3_8_0").symlink_to("triton_3_7_0")
    (finding,) = store.findings(RULE, layout=Layout.SGLANG)
    assert "a link to a folder is not followed" in finding.message


@pytest.mark.parametrize("layout", [Layout.VLLM, Layout.SGLANG])
def test_what_else_engines_ship_is_silent(store: Store, layout: Layout) -> None:
    for name in ("README", "README.md", "__init__.py", "triton_3_8_0/README.md", "triton_3_8_0/notes.txt"):
        store.file(b"", name)
    assert store.findings(RULE, layout=layout) == []
