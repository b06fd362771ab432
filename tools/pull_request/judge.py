"""From a bench of one planned file to its rows in the results, and from the rows to what they come to. Pure.

Rows: verdicts beyond noise, decisions by policy. A file: how it stands, and whether its claims hold.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tools.measure.panel import PromotionPolicy, Ratio
from tools.measure.statistics import Duel, Interval, Verdict
from tools.pull_request.documents import MeasuredFile, MeasuredRow, PlannedFile
from tools.store.record import Decision
from tools.store.strict_json import Json


@dataclass(frozen=True)
class BenchedRow:
    """One batch size of the file that was benched: the claimed one, or main's where the claim is its removal.

    Times in µs, None: it fails, or there is no such entry. Duels are the benched file's; None: unknown.
    """

    own_us: float | None
    main_us: float | None
    heuristic_us: float | None
    against_main: Duel | None
    against_heuristic: Duel | None

    def to_json(self) -> dict[str, Json]:
        duels = {"against_main": _duel_json(self.against_main), "against_heuristic": _duel_json(self.against_heuristic)}
        return {**vars(self), **duels}

    @classmethod
    def read(cls, document: Mapping[str, Json]) -> BenchedRow:
        """Inverse of `to_json`."""
        duels = {name: _duel(document[name]) for name in ("against_main", "against_heuristic")}
        return cls(**{**document, **duels})


def _duel_json(duel: Duel | None) -> Json:
    return duel and {"ratio": duel.ratio and dict(vars(duel.ratio)), "verdict": duel.verdict.value}


def _duel(document: Json) -> Duel | None:
    if document is None:
        return None
    ratio = document["ratio"]
    return Duel(None if ratio is None else Interval(**ratio), Verdict(document["verdict"]))


def rows_of(
    file: PlannedFile,
    benched: Mapping[int, BenchedRow],
    retuned_us: Mapping[int, float],
    policy: PromotionPolicy | None = None,
) -> dict[int, MeasuredRow]:
    """The file's rows, by batch size."""
    policy = policy or PromotionPolicy()
    if not file.claimed:
        return {m: _removed(row) for m, row in benched.items()}
    return {m: _kept(file, m, row, retuned_us.get(m), policy) for m, row in benched.items()}


def _kept(
    file: PlannedFile, num_tokens: int, row: BenchedRow, retuned_us: float | None, policy: PromotionPolicy
) -> MeasuredRow:
    duel = row.against_main if file.main else _within_bound(row.against_heuristic)
    rival_us = row.main_us if file.main else row.heuristic_us
    return MeasuredRow(
        file.claims_us.get(num_tokens),
        _rounded(row.own_us),
        _rounded(row.main_us),
        _rounded(row.heuristic_us),
        retuned_us,
        _verdict(duel, row.own_us, rival_us),
        _decision(bool(file.main), row, policy),
    )


def _removed(row: BenchedRow) -> MeasuredRow:
    """Main's file was benched; without it the heuristic runs."""
    kept = _verdict(row.against_heuristic, row.own_us, row.heuristic_us)
    inverse = {Verdict.FASTER: Verdict.SLOWER, Verdict.SLOWER: Verdict.FASTER}
    decision = None if kept is None else Decision.BASELINE if kept is Verdict.SLOWER else Decision.RETAIN
    return MeasuredRow(
        main_us=_rounded(row.own_us),
        heuristic_us=_rounded(row.heuristic_us),
        verdict=None if kept is None else inverse.get(kept, kept),
        decision=decision,
    )


def _rounded(us: float | None) -> float | None:
    return None if us is None else round(us, 3)


def _verdict(duel: Duel | None, own_us: float | None, rival_us: float | None) -> Verdict | None:
    """An entry that fails is slower than any that runs."""
    if duel is None or (own_us is None and rival_us is None):
        return None
    if duel.verdict is Verdict.FAILED:
        return Verdict.SLOWER if own_us is None else Verdict.FASTER
    return duel.verdict


def _within_bound(duel: Duel | None) -> Duel | None:
    """Beside having no file, slower is what the tuner's own bound calls so: within it a row may well be written."""
    if duel is None or duel.verdict is not Verdict.SLOWER or duel.ratio is None or _as_ratio(duel.ratio).is_slower:
        return duel
    return Duel(duel.ratio, Verdict.SAME)


def _decision(has_main: bool, row: BenchedRow, policy: PromotionPolicy) -> Decision | None:
    """By the tuner's own rule as far as a bench knows it: the claim challenges main's entry. None: unknown."""
    if row.against_heuristic is None or (has_main and row.against_main is None):
        return None
    may_challenge = row.own_us is not None and not _loses(row.against_heuristic.ratio, row.own_us, row.heuristic_us)
    main_us = row.main_us if has_main else None
    may_stay = main_us is not None and not _loses(None, main_us, row.heuristic_us)
    against_main = row.against_main.ratio if row.against_main else None
    is_close = may_stay and against_main is not None and not policy.is_won_by(_as_ratio(against_main))
    if may_challenge and not is_close:
        return Decision.PROMOTE
    return Decision.RETAIN if may_stay else Decision.BASELINE


def _loses(ratio: Interval | None, us: float, heuristic_us: float | None) -> bool:
    """Beyond the bound. ratio None: only the medians are known. A heuristic that doesn't run is no rival."""
    if heuristic_us is None:
        return False
    of_medians = us / heuristic_us
    return (_as_ratio(ratio) if ratio else Ratio(of_medians, of_medians, of_medians, 0)).is_slower


def _as_ratio(ratio: Interval) -> Ratio:
    """A bench's own, over its rounds."""
    return Ratio(ratio.low, ratio.median, ratio.high, 0)


# A file: what its rows come to by the promotion policy, and whether its claims hold.

CLAIM_TOLERANCE_PCT = 5.0
"""Two machines of one kind differ by up to so much in clock and cooling; beyond it a claimed time doesn't hold."""


class FileSummary(enum.Enum):
    """A file's headline, the worst first."""

    SLOWER = "slower"
    """A row loses to main's file or to the heuristic, or doesn't run."""
    UNKNOWN = "not measured"
    RETAIN = "no gain"
    """Nothing is slower, and nothing faster by the margin."""
    PROMOTE = "promote"


@dataclass(frozen=True)
class RowGap:
    """The row where one time is farthest above another, and by how many per cent of that other."""

    num_tokens: int
    pct: float


def summary_of(file: MeasuredFile) -> FileSummary:
    rows = file.rows.values()
    if any(is_slower(row) for row in rows):
        return FileSummary.SLOWER
    if not rows or any(row.verdict is None for row in rows):
        return FileSummary.UNKNOWN
    return FileSummary.PROMOTE if any(row.decision is Decision.PROMOTE for row in rows) else FileSummary.RETAIN


def is_slower(row: MeasuredRow) -> bool:
    """Than main's, or than having no file; where the file is removed, main's was faster.

    The policy may want the heuristic because main's entry loses to it: no fault of a claim that doesn't.
    """
    loses = row.measured_us is not None and row.heuristic_us is not None and row.measured_us > row.heuristic_us
    return row.verdict is Verdict.SLOWER or (row.decision is Decision.BASELINE and loses)


def claim_gap(file: MeasuredFile) -> RowGap | None:
    """Where the measured time is farthest above the claimed one. None: no row has both."""
    return _largest(file, lambda row: (row.measured_us, row.claimed_us))


def retuned_gap(file: MeasuredFile) -> RowGap | None:
    """Where re-tuning gains most over the claimed entry. None: it found no other file."""
    return _largest(file, lambda row: (row.measured_us, row.retuned_us)) if file.retuned_file else None


def why_unverified(file: MeasuredFile) -> str | None:
    """What keeps a file from being called verified: a row that doesn't run, loses, or doesn't hold its claim."""
    if not file.is_measured or not file.rows:
        return f"not measured ({file.reason or 'no rows'})"
    for num_tokens, row in sorted(file.rows.items()):
        if row.measured_us is None or row.verdict is None:
            return f"M={num_tokens}: no time was measured"
        if is_slower(row):
            return f"M={num_tokens}: slower than main's file or the heuristic"
    gap = claim_gap(file)
    if gap and gap.pct > CLAIM_TOLERANCE_PCT:
        return f"M={gap.num_tokens}: {gap.pct:.1f} % above the recorded time"
    return None


def has_lost(file: MeasuredFile) -> bool:
    """Whether it was measured, and didn't hold."""
    return file.is_measured and bool(file.rows) and why_unverified(file) is not None


def _largest(file: MeasuredFile, pair: Callable[[MeasuredRow], tuple[float | None, float | None]]) -> RowGap | None:
    gaps = [
        RowGap(num_tokens, 100.0 * (above / below - 1.0))
        for num_tokens, row in file.rows.items()
        for above, below in [pair(row)]
        if above and below
    ]
    return max(gaps, key=lambda gap: gap.pct, default=None)
