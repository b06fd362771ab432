"""How far tonight's times lie from those that the records hold, and the issue that reports it. Pure.

Times of two runs differ for reasons that are no file's fault: another card of the same kind, its clocks, the driver.
The heuristic is the yardstick: it was measured beside the file both times, so a row has drifted only where the time
itself and the time against the heuristic's both left their margin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tools.launch.heuristic_version import outdated
from tools.measure.floor import MOST_SPREAD_PCT, least_us
from tools.measure.statistics import NOISE_PCT, geomean
from tools.pull_request.documents import FileId, Leg, MeasuredFile, MeasuredRow, Plan, PlannedFile, Results
from tools.registry.devices import Device, DeviceRegistry
from tools.store.files import version_folder
from tools.store.record import Environment, Record, RecordedRow
from tools.text import as_a_report, counted, table

MARGIN_PCT = 5.0
"""Two machines of one kind differ by up to so much."""

MOST_APART_PCT = 20.0
"""How far one file's pace may lie from that of its device's other files: a new Triton may change one dtype's kernel."""

HARMLESS = frozenset({"unsupported", "wrong_triton"})
"""Why a file may go unmeasured on a sound runner: no bench for its kind, or tuned for another Triton."""


@dataclass(frozen=True)
class RowDrift:
    """One batch size, in µs and in per cent of the recorded time. measured_us None: its entry doesn't run any more.

    heuristic_pct: the heuristic's own drift, None where it wasn't measured both times. limit_pct: margin and noise.
    least_us: what the device can do, so that a recorded time below it is none.
    loss_pct: by how much the entry is slower than an engine's heuristic tonight, where it loses most; 0: nowhere.
    """

    num_tokens: int
    recorded_us: float
    measured_us: float | None
    heuristic_pct: float | None
    limit_pct: float
    loss_pct: float = 0.0
    least_us: float = 0.0

    @property
    def drift_pct(self) -> float | None:
        return None if self.measured_us is None else _pct(self.measured_us, self.recorded_us)

    @property
    def finding(self) -> str:
        """What is wrong with the row; empty where nothing is."""
        drift = self.drift_pct
        if self.recorded_us < self.least_us:
            return "recorded below what the device can do"
        if drift is None:
            return "does not run"
        if self.loss_pct:
            return f"{self.loss_pct:.1f} % slower than no file"
        against = drift if self.heuristic_pct is None else _pct(100.0 + drift, 100.0 + self.heuristic_pct)
        if min(abs(drift), abs(against)) <= self.limit_pct or drift * against < 0:
            return ""
        return "slower" if drift > 0 else "faster"


@dataclass(frozen=True)
class FileDrift:
    """One planned file. reason: why it has no rows."""

    id: FileId
    rows: tuple[RowDrift, ...]
    reason: str = ""
    outdated: tuple[str, ...] = ()
    """The engines of which the record's heuristic is another one than is measured today: no drift by itself."""
    apart_pct: float | None = None
    """By how much the heuristic drifted more than in the device's other files. None: one of the two wasn't measured.

    The rows' yardstick is the record's own: where its times are all a fifth of the truth, the machine reads slower.
    """

    @property
    def is_apart(self) -> bool:
        return self.apart_pct is not None and abs(self.apart_pct) > MOST_APART_PCT

    @property
    def has_drifted(self) -> bool:
        """Whether a row or its yardstick has."""
        return self.is_apart or any(row.finding for row in self.rows)

    @property
    def is_missing(self) -> bool:
        """It went unmeasured though it should not."""
        return bool(self.reason) and self.reason not in HARMLESS

    @property
    def worst_pct(self) -> float:
        """For sorting: the largest drift of a row that has drifted; infinite where one does not run."""
        drifts = [float("inf") if row.drift_pct is None else abs(row.drift_pct) for row in self.rows if row.finding]
        return max(drifts, default=float("inf") if self.has_drifted else 0.0)


@dataclass(frozen=True)
class DeviceDrift:
    """One leg. environment: where it was measured, None: nowhere."""

    device_name: str
    environment: Environment | None
    files: tuple[FileDrift, ...]

    @property
    def pace_pct(self) -> float | None:
        """How much slower the heuristic reads than in the records, over all rows: the machine's part, or Triton's."""
        return _pace_pct(self.files)


def compare(
    plan: Plan,
    results: Mapping[str, Results],
    records: Mapping[FileId, Record],
    margin_pct: float = MARGIN_PCT,
    devices: DeviceRegistry | None = None,
    triton: str | None = None,
) -> tuple[DeviceDrift, ...]:
    """Every leg of the plan. results: checked against it, one for each leg, by device.

    triton: what default files were to be measured under, so that figures of another one are none; None: any.
    devices: what recorded times are held against, None: nothing but what any GPU takes.
    records: of the plan's files, as far as they are still there.
    """
    return tuple(
        DeviceDrift(
            leg.device_name,
            results[leg.device_name].environment,
            _with_pace(
                _file(planned, measured, records.get(planned.id), margin_pct, _device_of(leg, devices))
                for planned, measured in zip(leg.files, _as_asked(results[leg.device_name], triton), strict=True)
            ),
        )
        for leg in plan.legs
    )


def _as_asked(result: Results, triton: str | None) -> Iterator[MeasuredFile]:
    """The leg's files; as not measured, those that were under another Triton than speaks for them."""
    found = result.environment and result.environment.triton
    for file in result.files:
        expected = file.id.triton_folder(triton) if triton else None
        if file.is_measured and found and expected not in (None, version_folder(found)):
            yield MeasuredFile(file.id, {}, f"measured under Triton {found}, expected {expected}", is_measured=False)
        else:
            yield file


def _with_pace(found: Iterable[FileDrift]) -> tuple[FileDrift, ...]:
    """The files of a device, each beside the others' pace."""
    files = tuple(found)
    return tuple(replace(file, apart_pct=_apart_pct(file, [f for f in files if f is not file])) for file in files)


def _apart_pct(file: FileDrift, others: Sequence[FileDrift]) -> float | None:
    own, usual = _pace_pct([file]), _pace_pct(others)
    return None if own is None or usual is None else _pct(100.0 + own, 100.0 + usual)


def _pace_pct(files: Iterable[FileDrift]) -> float | None:
    """The heuristic's drift, as the geometric mean over all rows of all these files."""
    found = [row.heuristic_pct for file in files for row in file.rows if row.heuristic_pct is not None]
    return 100.0 * (geomean([1.0 + pct / 100.0 for pct in found]) - 1.0) if found else None


def _file(
    planned: PlannedFile, measured: MeasuredFile, record: Record | None, margin_pct: float, device: Device | None
) -> FileDrift:
    older = outdated(record) if record else ()
    if not measured.is_measured:
        return FileDrift(planned.id, (), measured.reason or "no reason", older)
    recorded = record.rows if record else {}
    return FileDrift(planned.id, tuple(_rows(planned, measured.rows, recorded, margin_pct, device)), outdated=older)


def _rows(
    planned: PlannedFile,
    measured: Mapping[int, MeasuredRow],
    recorded: Mapping[int, RecordedRow],
    margin_pct: float,
    device: Device | None,
) -> Iterator[RowDrift]:
    shapes = [known.shape for known in planned.shapes]
    for num_tokens, claimed_us in sorted(planned.claims_us.items()):
        row, known = measured.get(num_tokens, MeasuredRow()), recorded.get(num_tokens)
        then = known and known.on_benchs_kernel
        if then is not None and then.latency_us.median != claimed_us:  # re-tuned since the plan was made
            then = None
        yield RowDrift(
            num_tokens,
            claimed_us,
            row.measured_us,
            _pct(row.heuristic_us, then.baseline_us.median) if row.heuristic_us and then else None,
            margin_pct + max(NOISE_PCT, min(then.latency_us.spread_pct, MOST_SPREAD_PCT) if then else 0.0),
            _loss_pct(row),
            least_us(planned.id.workload, shapes, num_tokens, device),
        )


def _device_of(leg: Leg, devices: DeviceRegistry | None) -> Device | None:
    return devices.get(leg.device_name) if devices else None


def _loss_pct(row: MeasuredRow) -> float:
    """In the part where it loses most to having no file."""
    lost = [part.over_heuristic.mean for part in row.parts if part.over_heuristic and part.over_heuristic.is_slower]
    return max((_pct(mean, 1.0) for mean in lost), default=0.0)


_MOST_RATIO = 1e6


def _pct(value: float, reference: float) -> float:
    """Above −100 and finite, whatever the times: a record may hold the least number there is."""
    ratio = value / reference if reference > 0.0 else _MOST_RATIO
    return 100.0 * (min(max(ratio, 1.0 / _MOST_RATIO), _MOST_RATIO) - 1.0)


# What a night found, as the markdown of an issue. All strings are of the plan, which main wrote, or of results whose
# schema takes narrow patterns only.

MOST_ROWS = 300
"""Rows of the table."""

MOST_NAMED = 100
"""Files of one list."""

_MEANING = (
    "Recorded: the time in the record beside the file. Measured: tonight's, median in µs, up and down together. "
    "The heuristic is measured beside the file both times: where it drifts by as much, the cause is the machine or its "
    "clocks, and the row counts as sound. Limit: the margin of {margin:g} % and the row's noise."
)
_APART = (
    "Against these records the heuristic reads otherwise than against the device's other ones, by over {most:g} %: "
    "what they say of it was not measured on such a machine, or a new Triton changed one kernel alone."
)
_OUTDATED = (
    "Recorded against an older heuristic of the engine named, so that tonight's times of the heuristic may be of "
    "another launch config than the record's (`tools/launch/heuristic_version.py`):"
)
_UNMEASURED = (
    "Not measured, so that nothing is known of their figures. Of another reason than {harmless} the job of the "
    "device's runner says more: mend that, and run the night again."
)
_WAY_OUT = "Re-tune the files below (`nox -s tune`), or update their records and give the reason."


def to_markdown(devices: Sequence[DeviceDrift], commit: str, margin_pct: float) -> str:
    """The whole report: devices, then every row of the files that drifted, the worst file first."""
    drifted = sorted((file for device in devices for file in device.files if file.has_drifted), key=_worst_first)
    lines = ["# Drift of tuned files", "", f"Commit `{commit}`. {_MEANING.format(margin=margin_pct)}", ""]
    lines += [f"- {_device(device)}" for device in devices] or ["- Nothing was planned."]
    if drifted:
        lines += ["", _WAY_OUT, "", *_table(drifted)]
    if apart := [file for file in drifted if file.is_apart]:
        lines += ["", _APART.format(most=MOST_APART_PCT), "", *_named(apart, lambda file: _signed(file.apart_pct))]
    if older := [file for device in devices for file in device.files if file.outdated]:
        lines += ["", _OUTDATED, "", *_named(older, lambda file: " and ".join(file.outdated))]
    unmeasured = [file for device in devices for file in device.files if file.reason]
    if unmeasured:
        lines += ["", _UNMEASURED.format(harmless=" or ".join(sorted(HARMLESS))), ""]
        lines += _named(unmeasured, lambda file: file.reason)
    return as_a_report("\n".join(lines) + "\n")


def _named(files: Sequence[FileDrift], what: Callable[[FileDrift], str]) -> Iterator[str]:
    yield from (f"- `{file.id.relative}`: {what(file)}" for file in files[:MOST_NAMED])
    if len(files) > MOST_NAMED:
        yield f"- and {len(files) - MOST_NAMED} more"


def summary(devices: Sequence[DeviceDrift]) -> str:
    """One line for the terminal."""
    return _counts([file for device in devices for file in device.files])


def _counts(files: Sequence[FileDrift]) -> str:
    drifted, reasons = sum(file.has_drifted for file in files), sum(bool(file.reason) for file in files)
    return f"{counted(len(files), 'file')}, {drifted} drifted, {reasons} not measured"


def _worst_first(file: FileDrift) -> tuple[float, str]:
    return -file.worst_pct, str(file.id.relative)


def _device(device: DeviceDrift) -> str:
    environment = device.environment
    where = "no results"
    if environment is not None:
        versions = {"driver": environment.driver, "triton": environment.triton, "torch": environment.torch}
        software = ", ".join(f"{name} {version or 'unknown'}" for name, version in versions.items())
        where = f"{environment.device_name}, {software}"
    pace = "" if device.pace_pct is None else f"; the heuristic reads {device.pace_pct:+.1f} % against the records"
    return f"`{device.device_name}` ({where}): {_counts(device.files)}{pace}"


def _table(files: Sequence[FileDrift]) -> list[str]:
    header = ["file", "M", "recorded", "measured", "drift", "heuristic", "limit", "finding"]
    rows = [(file, row) for file in files for row in file.rows]
    lines = table(header, [_cells(file, row) for file, row in rows[:MOST_ROWS]])
    return [*lines, "", f"And {len(rows) - MOST_ROWS} rows more."] if len(rows) > MOST_ROWS else lines


def _cells(file: FileDrift, row: RowDrift) -> list[str]:
    cells = [f"`{file.id.relative}`", str(row.num_tokens), f"{row.recorded_us:.1f}"]
    cells += ["–" if row.measured_us is None else f"{row.measured_us:.1f}", _signed(row.drift_pct)]
    return [*cells, _signed(row.heuristic_pct), f"{row.limit_pct:.1f} %", f"**{row.finding}**" if row.finding else ""]


def _signed(pct: float | None) -> str:
    return "–" if pct is None else f"{pct:+.1f} %"
