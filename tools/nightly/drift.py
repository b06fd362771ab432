"""How far tonight's times lie from those that the records hold. Pure.

Times of two runs differ for reasons that are no file's fault: another card of the same kind, its clocks, the driver.
The heuristic is the yardstick: it was measured beside the file both times, so a row has drifted only where the time
itself and the time against the heuristic's both left their margin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tools.measure.gate import PromotionPolicy
from tools.measure.statistics import NOISE_PCT, Verdict, geomean
from tools.pull_request.documents import FileId, MeasuredFile, Plan, PlannedFile, Results, Row
from tools.store.strict_json import Json

MARGIN_PCT = 5.0
"""Two machines of one kind differ by up to so much."""

HARMLESS = frozenset({"unsupported", "wrong_triton"})
"""Why a file may go unmeasured on a sound runner: no bench for its kind, or tuned for another Triton."""


@dataclass(frozen=True)
class Recorded:
    """A row of a record, in µs. spread_pct: half of what lies between the 10th and 90th percentile, of the median."""

    median_us: float
    spread_pct: float = 0.0
    heuristic_us: float | None = None


@dataclass(frozen=True)
class RowDrift:
    """One batch size, in µs and in per cent of the recorded time. measured_us None: its entry doesn't run any more.

    heuristic_pct: the heuristic's own drift, None where it wasn't measured both times. limit_pct: margin and noise.
    loss_pct: by how much the entry is slower than the heuristic tonight, beyond noise; 0 where it isn't.
    """

    num_tokens: int
    recorded_us: float
    measured_us: float | None
    heuristic_pct: float | None
    limit_pct: float
    loss_pct: float = 0.0

    @property
    def drift_pct(self) -> float | None:
        return None if self.measured_us is None else _pct(self.measured_us, self.recorded_us)

    @property
    def finding(self) -> str:
        """What is wrong with the row; empty where nothing is."""
        drift = self.drift_pct
        if drift is None:
            return "does not run"
        if self.loss_pct > PromotionPolicy().min_improvement_pct:
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

    @property
    def has_drifted(self) -> bool:
        """Whether a row has, or the file went unmeasured though it should not."""
        return (bool(self.reason) and self.reason not in HARMLESS) or any(row.finding for row in self.rows)

    @property
    def worst_pct(self) -> float:
        """For sorting: the largest drift of a row that has drifted; infinite where one does not run."""
        drifts = [abs(row.drift_pct or float("inf")) for row in self.rows if row.finding]
        return max(drifts, default=float("inf") if self.has_drifted else 0.0)


@dataclass(frozen=True)
class DeviceDrift:
    """One leg. environment: where it was measured, None: nowhere."""

    device_name: str
    environment: Mapping[str, Json] | None
    files: tuple[FileDrift, ...]

    @property
    def pace_pct(self) -> float | None:
        """How much slower the heuristic reads than in the records, over all rows: the machine's part, or Triton's."""
        found = [row.heuristic_pct for file in self.files for row in file.rows if row.heuristic_pct is not None]
        return 100.0 * (geomean([1.0 + pct / 100.0 for pct in found]) - 1.0) if found else None


def recorded_rows(record: Json) -> Mapping[int, Recorded]:
    """The rows of a record as schema/record.schema.json has it; none of one without figures."""
    rows = record.get("rows") if isinstance(record, dict) else None
    return {int(size): _recorded(row) for size, row in (rows or {}).items()}


def _recorded(row: Json) -> Recorded:
    latency = row["latency_us"]
    spread = 50.0 * (latency["p90"] - latency["p10"]) / latency["median"]
    return Recorded(latency["median"], spread, row["baseline_us"]["median"])


def compare(
    plan: Plan,
    results: Mapping[str, Results],
    records: Mapping[FileId, Mapping[int, Recorded]],
    margin_pct: float = MARGIN_PCT,
) -> tuple[DeviceDrift, ...]:
    """Every leg of the plan. results: checked against it, one for each leg, by device.

    records: of the plan's files, as far as they are still there.
    """
    return tuple(
        DeviceDrift(
            leg.device_name,
            results[leg.device_name].environment,
            tuple(
                _file(planned, measured, records.get(planned.id, {}), margin_pct)
                for planned, measured in zip(leg.files, results[leg.device_name].files, strict=True)
            ),
        )
        for leg in plan.legs
    )


def _file(planned: PlannedFile, measured: MeasuredFile, record: Mapping[int, Recorded], margin_pct: float) -> FileDrift:
    if not measured.is_measured:
        return FileDrift(planned.id, (), measured.reason or "no reason")
    return FileDrift(planned.id, tuple(_rows(planned, measured.rows, record, margin_pct)))


def _rows(
    planned: PlannedFile, rows: Mapping[int, Row], record: Mapping[int, Recorded], margin_pct: float
) -> Iterator[RowDrift]:
    for num_tokens, claimed_us in sorted(planned.claims_us.items()):
        row = rows.get(num_tokens, Row())
        recorded = record.get(num_tokens)
        if recorded is None or recorded.median_us != claimed_us:  # re-tuned since the plan was made
            recorded = Recorded(claimed_us)
        yield RowDrift(
            num_tokens,
            claimed_us,
            row.measured_us,
            _pct(row.heuristic_us, recorded.heuristic_us) if row.heuristic_us and recorded.heuristic_us else None,
            margin_pct + max(NOISE_PCT, recorded.spread_pct),
            _loss_pct(row),
        )


def _loss_pct(row: Row) -> float:
    if row.verdict is not Verdict.SLOWER or row.measured_us is None or row.heuristic_us is None:
        return 0.0
    return max(0.0, _pct(row.measured_us, row.heuristic_us))


def _pct(value: float, reference: float) -> float:
    return 100.0 * (value / reference - 1.0)
