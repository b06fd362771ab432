"""Which release answers, which of its rules, and what stands in the registry."""

from __future__ import annotations

import dataclasses

import pytest

from fused_moe_configs.api import where
from fused_moe_configs.backends import (
    BackendRule,
    Citation,
    EngineRelease,
    choose_backend,
    choose_release,
    read_engines,
    usual_backends,
)
from fused_moe_configs.registry import Checkpoint, ServingError

SOURCE = (Citation("vllm/oracle.py", 7, "TRITON"),)
MODEL = Checkpoint("owner/Model-1", 8, 512, 256, 2)


def release(version: str = "0.33.0", *rules: BackendRule, name: str = "vllm") -> EngineRelease:
    return EngineRelease(name, version, "2.14.0", "3.8.0", False, SOURCE, rules)


def rule(backend: str = "TRITON", **conditions: object) -> BackendRule:
    facts = {"kinds": ("bf16",), "archs": ("sm_90",), "reads_tuned_files": True, "reason": "So.", "source": SOURCE}
    return BackendRule(**{**facts, **conditions, "backend": backend})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("conditions", "checkpoint", "ep", "matches"),
    [
        ({}, MODEL, 1, True),
        ({"archs": ("sm_89", "gfx942")}, MODEL, 1, False),
        ({"kinds": ("fp8_block",)}, MODEL, 1, False),
        ({}, dataclasses.replace(MODEL, dtype="fp16"), 1, True),
        ({"parallelism": "tp"}, MODEL, 1, True),
        ({"parallelism": "tp"}, MODEL, 2, False),
        ({"parallelism": "ep"}, MODEL, 2, True),
        ({"parallelism": "ep"}, MODEL, 1, False),
        ({"gated": True}, dataclasses.replace(MODEL, gated=False), 1, False),
        ({"gated": False}, dataclasses.replace(MODEL, gated=False), 1, True),
        ({"block_shape": (128, 128)}, MODEL, 1, False),
        ({"models": ("OWNER/model-*",)}, MODEL, 1, True),
        ({"models": ("owner/model",)}, MODEL, 1, False),
        ({"models": ("x/y*",)}, dataclasses.replace(MODEL, also=("X/Y-2",)), 1, True),
    ],
)
def test_a_rule_matches_where_all_its_conditions_hold(conditions, checkpoint, ep, matches):
    assert rule(**conditions).matches(checkpoint, "sm_90", ep, None) is matches


def test_the_first_rule_that_matches_answers():
    engine = release("0.33.0", rule("EP", parallelism="ep"), rule("FIRST"), rule("SECOND"))
    assert choose_backend(MODEL, engine, 1, None, "sm_90").backend == "FIRST"
    assert choose_backend(MODEL, engine, 4, None, "sm_90").backend == "EP"


def test_what_is_not_known_says_so_and_why():
    engine = release("0.33.0", rule(archs=("sm_80",)))
    unknown = choose_backend(MODEL, engine, 1, None, None)
    assert (str(unknown), unknown.reads_tuned_files) == ("not known which backend runs", None)
    assert unknown.reason == "configs/registry/devices.json doesn't have the device's architecture."
    for ep, sharing in ((1, "without"), (2, "with")):
        found = choose_backend(MODEL, engine, ep, None, "sm_90")
        assert found.backend is None
        assert found.reason == (
            f"configs/registry/engines.json has no rule for bf16 {sharing} expert parallelism on sm_90."
        )


class TestScalesThatMayBeEither:
    """Of a checkpoint that doesn't say whether its activations' scales are static or dynamic."""

    UNSAID = dataclasses.replace(MODEL, dtype="fp8_w8a8")

    def chosen(self, *rules: BackendRule):
        return choose_backend(self.UNSAID, release("0.33.0", *rules), 1, None, "sm_90")

    def test_where_both_run_alike_that_is_the_answer(self):
        assert self.chosen(rule(kinds=("fp8_tensor_static", "fp8_tensor_dynamic"))).backend == "TRITON"

    def test_where_they_differ_both_are_told_and_shown(self):
        dynamic = (Citation("vllm/other.py", 1, "x"),)
        found = self.chosen(
            rule("FAST", kinds=("fp8_tensor_static",), reads_tuned_files=False),
            rule(kinds=("fp8_tensor_dynamic",), source=dynamic),
        )
        assert (found.backend, found.reads_tuned_files, found.source) == (None, None, (*SOURCE, *dynamic))
        assert found.reason.endswith(
            "with static ones FAST, reads no tuned files; with dynamic ones TRITON, reads tuned files."
        )

    def test_where_one_is_not_known_the_reason_is_that(self):
        found = self.chosen(rule(kinds=("fp8_tensor_dynamic",)))
        assert found.reason == (
            "configs/registry/engines.json has no rule for fp8_tensor_static without expert parallelism on sm_90."
        )


@pytest.mark.parametrize(
    ("version", "chosen", "said"),
    [
        (None, "0.40.1", ""),
        ("0.33.0", "0.33.0", ""),
        ("0.33.0+cu130", "0.33.0", ""),
        ("0.33.1", "0.33.0", "vllm 0.33.1 is not known here: 0.33.0 answers, the nearest release below it."),
        ("0.33.0rc1", "0.33.0", "vllm 0.33.0rc1 is not known here: 0.33.0 answers"),
        ("0.9", "0.9.2", "expected vllm 0.9.2 or newer, found '0.9'. Fix: leave the version out for what 0.40.1 does."),
        ("0.33.2.dev7+g1a2b", "0.33.0", "0.33.0 answers"),
        ("1.0.0", "0.40.1", "0.40.1 answers"),
        ("0.40", "0.33.0", "vllm 0.40 is not known here: 0.33.0 answers"),
        ("0.40.1\n", "0.40.1", r"vllm '0.40.1\n' is not known here"),
    ],
)
def test_the_release_that_answers_for_a_version(version, chosen, said):
    known = [release("0.9.2"), release("0.33.0"), release("0.40.1"), release("0.5.23", name="sglang")]
    if "Fix:" in said:
        with pytest.raises(ServingError, match=said):
            choose_release(known, "vllm", version)
        return
    found, note = choose_release(known, "vllm", version)
    assert found.version == chosen
    assert said in (note or "")
    assert bool(note) is bool(said)


@pytest.mark.parametrize("version", ["", "x", "0", "v0.33.0", "0.1.2.3", "0.1.9999999999"])
def test_what_is_no_version_is_refused(version):
    with pytest.raises(ServingError, match=r"version: expected a release such as 0\.33\.0, found .* Fix: write one"):
        choose_release([release()], "vllm", version)


@pytest.mark.parametrize(("engine", "hint"), [("vlm", "Did you mean vllm? Fix"), ("trt", "found 'trt'. Fix")])
def test_an_unknown_engine_is_refused_with_near_ones(engine, hint):
    with pytest.raises(ServingError) as refused:
        choose_release([release(), release(name="sglang")], engine)
    assert str(refused.value).startswith("engine: expected one of sglang, vllm, found ")
    assert hint in str(refused.value)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_each_kind_of_weights_that_a_rule_speaks_of_is_among_the_usual_ones(engine):
    found, _ = choose_release(read_engines(where()), engine)
    words = usual_backends(found, "sm_90")
    assert set(words) >= {kind for each in found.rules for kind in each.kinds}
    assert words["bf16"].casefold() == "triton, reads tuned files"


def test_what_is_usual_names_both_backends_where_expert_parallelism_changes_it():
    found, _ = choose_release(read_engines(where()), "vllm")
    expected = "TRITON, reads tuned files; with expert parallelism FLASHINFER_CUTLASS, reads no tuned files"
    assert usual_backends(found, "sm_90")["fp8_block"] == expected


def test_every_citation_of_a_release_is_listed_once():
    found = release("0.33.0", rule(), rule(source=(*SOURCE, Citation("a.py", 1, "b"))))
    assert found.citations == (*SOURCE, Citation("a.py", 1, "b"))
