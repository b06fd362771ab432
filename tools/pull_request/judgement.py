"""From a bench of one planned file to its rows in the results: verdicts beyond noise, decisions by policy. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tools.measure.gate import PromotionPolicy
from tools.measure.statistics import NOISE_PCT, Duel, Verdict
from tools.pull_request.documents import PlannedFile, Row
from tools.store.record import Decision


@dataclass(frozen=True)
class Benched:
    """One batch size of the file that was benched: the claimed one, or main's where the claim is its removal.

    Times in µs, None: it fails, or there is no such entry. Duels are the benched file's; None: nobody can tell.
    """

    own_us: float | None
    main_us: float | None
    heuristic_us: float | None
    against_main: Duel | None
    against_heuristic: Duel | None


def rows_of(
    file: PlannedFile,
    benched: Mapping[int, Benched],
    retuned_us: Mapping[int, float],
    policy: PromotionPolicy | None = None,
) -> dict[int, Row]:
    """The file's rows, by batch size."""
    policy = policy or PromotionPolicy()
    if not file.claimed:
        return {m: _removed(row) for m, row in benched.items()}
    return {m: _kept(file, m, row, retuned_us.get(m), policy) for m, row in benched.items()}


def _kept(file: PlannedFile, num_tokens: int, row: Benched, retuned_us: float | None, policy: PromotionPolicy) -> Row:
    duel = row.against_main if file.main else row.against_heuristic
    rival_us = row.main_us if file.main else row.heuristic_us
    return Row(
        file.claims_us.get(num_tokens),
        _rounded(row.own_us),
        _rounded(row.main_us),
        _rounded(row.heuristic_us),
        retuned_us,
        _verdict(duel, row.own_us, rival_us),
        _decision(bool(file.main), row, policy),
    )


def _removed(row: Benched) -> Row:
    """Main's file was benched; without it the heuristic runs."""
    kept = _verdict(row.against_heuristic, row.own_us, row.heuristic_us)
    inverse = {Verdict.FASTER: Verdict.SLOWER, Verdict.SLOWER: Verdict.FASTER}
    decision = None if kept is None else Decision.BASELINE if kept is Verdict.SLOWER else Decision.RETAIN
    return Row(
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


def _decision(has_main: bool, row: Benched, policy: PromotionPolicy) -> Decision | None:
    """The tuner's gate, from a bench: the claim wins by the margin, and nothing that loses to the heuristic stays."""
    if row.against_heuristic is None or (has_main and row.against_main is None):
        return None
    if row.own_us is not None and (not has_main or _wins(row, policy)):
        return Decision.BASELINE if row.against_heuristic.verdict is Verdict.SLOWER else Decision.PROMOTE
    if row.main_us is None:
        return Decision.BASELINE
    limit_us = row.main_us / (1.0 + NOISE_PCT / 100.0)
    return Decision.BASELINE if row.heuristic_us is not None and row.heuristic_us < limit_us else Decision.RETAIN


def _wins(row: Benched, policy: PromotionPolicy) -> bool:
    """Over main's entry; where that fails, any that runs does."""
    ratio = row.against_main.ratio if row.against_main else None
    return row.main_us is None if ratio is None else policy.is_won_by(ratio)
