"""300 files with records: built within 10 s of two cores, and the first page stays small."""

from __future__ import annotations

import gzip
import os
import resource
from pathlib import Path

from tests.tools.site.stores import add, names, store_at
from tools.registry.models import load_models
from tools.site.build import Sources, write

BUDGET_S = 10.0
CORES = 2


def spent() -> float:
    """Seconds of processors, of this process and of those that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def test_300_files_with_records(tmp_path: Path) -> None:
    """By the processors' time, so that a busy machine doesn't count."""
    store = store_at(tmp_path / "configs", [model.id for model in load_models()])
    every = names(4000)
    for name in every[:: len(every) // 300][:300]:
        add(store, name)
    before = spent()
    write(
        Sources(store.root, tmp_path / "none", "https://example.org"), tmp_path / "out", min(CORES, os.cpu_count() or 1)
    )
    assert spent() - before <= BUDGET_S * CORES
    assert len(list((tmp_path / "out" / "files").iterdir())) == 300
    parts = ("index.html", "assets/site.css", "assets/charts.css", "assets/app.js")
    assert sum(len(gzip.compress((tmp_path / "out" / name).read_bytes())) for name in parts) <= 400_000
