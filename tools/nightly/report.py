"""What a night found, as the markdown of an issue. Pure.

All strings are of the plan, which main wrote, or of results whose schema takes narrow patterns only.
"""

from __future__ import annotations

from collections.abc import Sequence

from tools.nightly.drift import DeviceDrift, FileDrift, RowDrift
from tools.text import counted

MOST_ROWS = 300
"""Rows of the table: an issue takes 65536 characters."""

_MEANING = (
    "Recorded: the time in the record beside the file. Measured: tonight's, median in µs, up and down together. "
    "The heuristic is measured beside the file both times: where it drifts alike, the machine or its clocks did, and "
    "the row counts as sound. Limit: the margin of {margin:g} % and the row's noise."
)
_WAY_OUT = "Re-tune the files below (`nox -s tune`), or move their figures with the reason for it."


def to_markdown(devices: Sequence[DeviceDrift], commit: str, margin_pct: float) -> str:
    """The whole report: devices, then every row of the files that drifted, the worst file first."""
    drifted = sorted((file for device in devices for file in device.files if file.has_drifted), key=_worst_first)
    lines = ["# Drift of tuned files", "", f"Commit `{commit}`. {_MEANING.format(margin=margin_pct)}", ""]
    lines += [f"- {_device(device)}" for device in devices] or ["- Nothing was planned."]
    if drifted:
        lines += ["", _WAY_OUT, "", *_table(drifted)]
    unmeasured = [file for device in devices for file in device.files if file.reason]
    if unmeasured:
        lines += ["", "Not measured:", "", *(f"- `{file.id.relative}`: {file.reason}" for file in unmeasured[:100])]
    return "\n".join(lines) + "\n"


def summary(devices: Sequence[DeviceDrift]) -> str:
    """One line for the terminal."""
    files = [file for device in devices for file in device.files]
    drifted, reasons = sum(file.has_drifted for file in files), sum(bool(file.reason) for file in files)
    return f"{counted(len(files), 'file')}: {drifted} drifted or failed, {reasons} not measured"


def _worst_first(file: FileDrift) -> tuple[float, str]:
    return -file.worst_pct, str(file.id.relative)


def _device(device: DeviceDrift) -> str:
    environment = device.environment
    where = "no results"
    if environment is not None:
        versions = [f"{name} {environment[name] or 'unknown'}" for name in ("driver", "triton", "torch")]
        where = f"{environment['device_name']}, {', '.join(versions)}"
    pace = "" if device.pace_pct is None else f"; the heuristic reads {device.pace_pct:+.1f} % against the records"
    drifted = sum(file.has_drifted for file in device.files)
    return f"`{device.device_name}` ({where}): {counted(len(device.files), 'file')}, {drifted} drifted or failed{pace}"


def _table(files: Sequence[FileDrift]) -> list[str]:
    header = ["file", "M", "recorded", "measured", "drift", "heuristic", "limit", "finding"]
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    rows = [(file, row) for file in files for row in file.rows]
    lines += [_row(file, row) for file, row in rows[:MOST_ROWS]]
    return [*lines, "", f"And {len(rows) - MOST_ROWS} rows more."] if len(rows) > MOST_ROWS else lines


def _row(file: FileDrift, row: RowDrift) -> str:
    cells = [f"`{file.id.relative}`", str(row.num_tokens), f"{row.recorded_us:.1f}"]
    cells += ["–" if row.measured_us is None else f"{row.measured_us:.1f}", _signed(row.drift_pct)]
    cells += [_signed(row.heuristic_pct), f"{row.limit_pct:.1f} %", f"**{row.finding}**" if row.finding else ""]
    return f"| {' | '.join(cells)} |"


def _signed(pct: float | None) -> str:
    return "–" if pct is None else f"{pct:+.1f} %"
