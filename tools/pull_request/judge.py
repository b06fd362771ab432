"""From a bench of one planned file to its rows in the results, and from the rows to what they come to. Pure.

Rows: verdicts over all parts, decisions by policy. A file: how it stands, and whether its claims hold.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kernels.problem import Flavour
from tools.measure.judgement import Duel, Verdict
from tools.measure.panel import PromotionPolicy, Ratio, RoutingKind
from tools.pull_request.documents import MeasuredFile, MeasuredPart, MeasuredRow, PlannedFile
from tools.store.record import Decision
from tools.store.strict_json import Json


@dataclass(frozen=True)
class BenchedPart:
    """The benched file in one engine's flavour under one routing in one shape: the claimed one, or main's where it is
    removed.

    Times in µs, None: it fails, or there is no such entry. shape: its place among the plan's. Duels are the benched
    file's, None: unknown. main_over_heuristic: None where one of them doesn't run.
    """

    engine: Flavour
    routing: RoutingKind
    own_us: float | None
    main_us: float | None
    heuristic_us: float | None
    against_main: Duel | None
    against_heuristic: Duel | None
    main_over_heuristic: Ratio | None = None
    shape: int = 0

    def to_json(self) -> dict[str, Json]:
        duels = {"against_main": _duel_json(self.against_main), "against_heuristic": _duel_json(self.against_heuristic)}
        return {**vars(self), **duels, "main_over_heuristic": _ratio_json(self.main_over_heuristic)}

    @classmethod
    def read(cls, document: Mapping[str, Json]) -> BenchedPart:
        """Inverse of `to_json`."""
        read = {name: _duel(document[name]) for name in ("against_main", "against_heuristic")}
        words = {"engine": Flavour(document["engine"]), "routing": RoutingKind(document["routing"])}
        ratio = document["main_over_heuristic"]
        return cls(**{**document, **words, **read, "main_over_heuristic": ratio and Ratio(**ratio)})

    @property
    def against_no_file(self) -> Verdict | None:
        return _verdict(self.against_heuristic, self.own_us, self.heuristic_us)

    def against_today(self, *, has_main: bool) -> Verdict | None:
        """What its readers get without it: main's, or no file."""
        return _verdict(self.against_main, self.own_us, self.main_us) if has_main else self.against_no_file


@dataclass(frozen=True)
class BenchedRow:
    """One batch size. parts: the first one's times are the row's. over_main: by the tuner's score, over all parts.

    None: there is no such file, or one of both fails somewhere.
    """

    parts: tuple[BenchedPart, ...]
    over_main: Ratio | None = None

    def to_json(self) -> dict[str, Json]:
        return {"parts": [part.to_json() for part in self.parts], "over_main": _ratio_json(self.over_main)}

    @classmethod
    def read(cls, document: Mapping[str, Json]) -> BenchedRow:
        """Inverse of `to_json`. ValueError: no parts."""
        parts = tuple(map(BenchedPart.read, document["parts"]))
        if not parts:
            raise ValueError("parts: expected one or more, found none.")
        ratio = document["over_main"]
        return cls(parts, ratio and Ratio(**ratio))


def _ratio_json(ratio: Ratio | None) -> Json:
    return ratio and dict(vars(ratio))


def _duel_json(duel: Duel | None) -> Json:
    return duel and {"ratio": _ratio_json(duel.ratio), "verdict": duel.verdict.value}


def _duel(document: Json) -> Duel | None:
    if document is None:
        return None
    ratio = document["ratio"]
    return Duel(None if ratio is None else Ratio(**ratio), Verdict(document["verdict"]))


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
    head = row.parts[0]
    has_main = bool(file.main)
    return MeasuredRow(
        file.claims_us.get(num_tokens),
        _rounded(head.own_us),
        _rounded(head.main_us),
        _rounded(head.heuristic_us),
        retuned_us,
        _overall([part.against_today(has_main=has_main) for part in row.parts]),
        _decision(has_main, row, policy),
        tuple(map(_measured_part, row.parts)),
    )


def _measured_part(part: BenchedPart) -> MeasuredPart:
    duels = (part.against_heuristic, part.against_main)
    over_heuristic, over_main = (_rounded_ratio(duel.ratio) if duel and duel.ratio else None for duel in duels)
    return MeasuredPart(part.engine, part.routing, part.own_us is not None, over_heuristic, over_main, part.shape)


def _removed(row: BenchedRow) -> MeasuredRow:
    """Main's file was benched; without it the heuristic runs."""
    head = row.parts[0]
    kept = _overall([part.against_no_file for part in row.parts])
    inverse = {Verdict.FASTER: Verdict.SLOWER, Verdict.SLOWER: Verdict.FASTER}
    decision = None if kept is None else Decision.BASELINE if kept is Verdict.SLOWER else Decision.RETAIN
    return MeasuredRow(
        main_us=_rounded(head.own_us),
        heuristic_us=_rounded(head.heuristic_us),
        verdict=None if kept is None else inverse.get(kept, kept),
        decision=decision,
    )


def _rounded(us: float | None) -> float | None:
    return None if us is None else round(us, 3)


def _rounded_ratio(ratio: Ratio) -> Ratio:
    low, mean, high = (round(value, 4) for value in (ratio.low, ratio.mean, ratio.high))
    return Ratio(low, mean, high, ratio.blocks)


def _verdict(duel: Duel | None, own_us: float | None, rival_us: float | None) -> Verdict | None:
    """An entry that fails is slower than any that runs."""
    if duel is None or (own_us is None and rival_us is None):
        return None
    if duel.verdict is Verdict.FAILED:
        return Verdict.SLOWER if own_us is None else Verdict.FASTER
    return duel.verdict


def _overall(verdicts: Sequence[Verdict | None]) -> Verdict | None:
    """Of all parts: slower in one is slower; faster is faster somewhere. None: unknown in one."""
    if Verdict.SLOWER in verdicts:
        return Verdict.SLOWER
    if None in verdicts:
        return None
    return Verdict.FASTER if Verdict.FASTER in verdicts else Verdict.SAME


def _decision(has_main: bool, row: BenchedRow, policy: PromotionPolicy) -> Decision | None:
    """By the tuner's own rule as far as a bench knows it: the claim challenges main's entry. None: unknown."""
    unknown = any(part.against_heuristic is None or (has_main and part.against_main is None) for part in row.parts)
    if unknown:
        return None
    may_challenge = all(part.own_us is not None and not _loses(part.against_heuristic) for part in row.parts)
    may_stay = has_main and all(
        part.main_us is not None and not (part.main_over_heuristic and part.main_over_heuristic.is_slower)
        for part in row.parts
    )
    is_close = may_stay and row.over_main is not None and not policy.is_won_by(row.over_main)
    if may_challenge and not is_close:
        return Decision.PROMOTE
    return Decision.RETAIN if may_stay else Decision.BASELINE


def _loses(duel: Duel | None) -> bool:
    """Beyond the bound. A heuristic that doesn't run is no rival."""
    return duel is not None and duel.verdict is Verdict.SLOWER


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
    """Than main's or than having no file, in any part; where the file is removed, main's was faster."""
    return row.verdict is Verdict.SLOWER or any(part.is_slower for part in row.parts)


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
            where = next((f" ({part})" for part in row.parts if part.is_slower), "")
            return f"M={num_tokens}: slower than main's file or the heuristic{where}"
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
