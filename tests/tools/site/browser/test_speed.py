"""300 files with records: built within 10 s of two cores, and the first page stays small."""

from __future__ import annotations

import gzip
import time
from pathlib import Path

from tests.tools.site.stores import add, names, store_at
from tools.registry.models import load_models
from tools.site.build import Sources, write

BUDGET_S = 10.0
CORES = 2
"""Which share the work: what one process takes is theirs together."""


def test_300_files_with_records(tmp_path: Path) -> None:
    """By the processor's time, so that a busy machine counts less."""
    store = store_at(tmp_path / "configs", [model.id for model in load_models()])
    every = names(4000)
    for name in every[:: len(every) // 300][:300]:
        add(store, name)
    before = time.process_time()
    write(Sources(store.root, tmp_path / "none", "https://example.org"), tmp_path / "out")
    assert time.process_time() - before <= BUDGET_S * CORES
    assert len(list((tmp_path / "out" / "files").iterdir())) == 300
    parts = ("index.html", "assets/site.css", "assets/charts.css", "assets/app.js")
    assert sum(len(gzip.compress((tmp_path / "out" / name).read_bytes())) for name in parts) <= 400_000
