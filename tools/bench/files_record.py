"""What a bench of a tuned file adds to its record."""

from __future__ import annotations

from pathlib import Path

from tools.bench.contestants import NO_FILE
from tools.bench.files_report import BenchReport, FileReport
from tools.bench.files_request import FilesRequest
from tools.measure.statistics import score
from tools.store.config_file import ConfigFile
from tools.store.files import canonical_record, read_file, record_path, write_file
from tools.store.record import with_line
from tools.store.strict_json import Json
from tools.text import shown_path


class NoEvidenceError(ValueError):
    """A bench that a record can't speak of. One line for a person."""


def note_in_record(file: ConfigFile, request: FilesRequest, report: BenchReport, result: FileReport) -> Path:
    """Adds `engine_checked` (on an engine's kernel) or `verified_with` (on ours) to the record; returns its path.

    NoEvidenceError: the file doesn't run everywhere, or met nobody; the record stays as it is.
    """
    path = record_path(file.found.root, file.found.relative)
    record = read_file(path).document
    assert isinstance(record, dict)
    own, *others = result.contestants
    failed = [row.num_tokens for row in result.rows if row.measured[own].us is None]
    if failed:
        raise NoEvidenceError(f"{shown_path(path)}: expected every row to run, found M={failed[0]} failed.")
    scores = {name: found for name in others if (found := score(result.rows, name))}
    triton, date = report.environment["triton"], report.environment["date"]
    line: dict[str, Json]
    if request.engine_path is not None:
        engine = scores.get(NO_FILE)
        if engine is None:
            raise NoEvidenceError(f"{shown_path(path)}: expected {NO_FILE} to run, found that it failed everywhere.")
        key, same = "engine_checked", ["engine", "version", "triton"]
        ratios = {"worst_ratio": round(engine.worst_ratio, 4), "geomean_ratio": round(engine.geomean_ratio, 4)}
        line = {"engine": "vllm", "version": report.environment["engine"], "triton": triton, "date": date, **ratios}
    else:
        if not scores:
            raise NoEvidenceError(f"{shown_path(path)}: expected somebody to compare with, found that all failed.")
        key, same = "verified_with", ["triton"]
        worst = max(found.worst_ratio for found in scores.values())
        line = {"triton": triton, "date": date, "worst_loss_pct": round(100.0 * (worst - 1.0), 2)}
    write_file(path, canonical_record(with_line(record, key, line, same)))
    return path
