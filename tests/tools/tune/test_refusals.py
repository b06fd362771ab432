"""Refusals lead out: each message's fix is taken from its text, applied, and the command run again.

It ends with a workload, or with a plain «nothing to tune»; a fix that leads back to its own message fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.tools.registry.config_json_files import CASES, written
from tools.errors import UserError
from tools.registry.devices import Device, DeviceRegistry, load_devices
from tools.registry.models import load_models
from tools.tune.request import parse
from tools.tune.subject import make_subject

MODELS = load_models()
MIXTRAL = "mistralai/Mixtral-8x7B-v0.1"
PLAIN = {
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
}


@dataclass(frozen=True)
class Try:
    """What is run: the flags, the GPU's name as its driver gives it, and the registry of devices."""

    flags: tuple[str, ...]
    device_name: str
    devices: DeviceRegistry

    def message(self) -> str:
        """Of the refusal; empty: there is a workload."""
        try:
            (source,) = parse(self.flags).sources
            make_subject(source, self.device_name, MODELS, self.devices)
        except UserError as error:
            return str(error)
        return ""

    def value(self, flag: str) -> str:
        return self.flags[self.flags.index(flag) + 1]

    def set(self, flag: str, *value: str) -> Try:
        if flag in self.flags:
            at = self.flags.index(flag)
            return replace(self, flags=(*self.flags[:at], flag, *value, *self.flags[at + 1 + len(value) :]))
        return replace(self, flags=(*self.flags, flag, *value))

    def without(self, flag: str, count: int = 1) -> Try:
        at = self.flags.index(flag)
        return replace(self, flags=(*self.flags[:at], *self.flags[at + 1 + count :]))


UNTOLD = {"E": "64", "N": "1536", "K": "2560", "top_k": "6"}
"""What a user knows of a model whose file doesn't tell it: of ERNIE's, the experts for text."""


def _sizes(before: Try, match: re.Match[str]) -> Try:
    """The model goes, and its tp with it."""
    return replace(before, flags=tuple(UNTOLD.get(word, word) for word in match[1].split()))


def _device(before: Try, match: re.Match[str]) -> Try:
    entry = Device(match[1], "nvidia", "H100", (), "sm_90", 232448)
    return replace(before, devices=DeviceRegistry((*before.devices, entry)))


def _facts(before: Try, match: re.Match[str]) -> Try:
    facts = {"arch": "gfx1151", "smem_bytes_per_block": 65536}
    full = (replace(device, **facts) if device.name == match[1] else device for device in before.devices)
    return replace(before, devices=DeviceRegistry(tuple(full)))


def _half(before: Try, flag: str) -> Try:
    return before.set(flag, str(int(before.value(flag)) // 2))


def _divisor(before: Try, match: re.Match[str]) -> Try:
    """Of E for ep, of N for tp; the size that doesn't divide is named before."""
    flag, whole = ("--ep" if "ep=" in match[0] else "--tp"), int(match[2])
    best = max(each for each in range(1, int(before.value(flag))) if whole % each == 0)
    return before.set("--tp", str(best)).set("--ep", str(best)) if flag == "--ep" else before.set(flag, str(best))


FIXES: tuple[tuple[str, Callable[[Try, re.Match[str]], Try]], ...] = (
    (r"Fix: .*?give the sizes themselves: (--E \S+ --N \S+ --K \S+ --top-k \S+) \[", _sizes),
    (r"Did you mean (\S+) .*Fix: correct the name", lambda before, match: before.set("--model", match[1])),
    (r"give the sizes themselves: (--E) (--N) (--K) (--top-k) \[", lambda before, _: _sizes(before, _ALL_LETTERS)),
    (r"Fix: .*?say how the experts are stored: --dtype (\w+)", lambda before, match: before.set("--dtype", match[1])),
    (r"Fix: (?:add|name) --dtype (\w+)", lambda before, match: before.set("--dtype", match[1])),
    (r"--dtype: expected one of (\w+),.*Fix: name one of them", lambda before, match: before.set("--dtype", match[1])),
    (r"--block-shape: expected without --per-channel-quant", lambda before, _: before.without("--block-shape")),
    (r'Fix: add "(\S+)" there, with vendor, family, arch and smem', _device),
    (r"Fix: give .* in the entry of (\S+)\.", _facts),
    (r"expected a multiple of (?:tp|ep|tp // ep)=(\d+), found (\d+)\. Fix: choose a divisor", _divisor),
    (r"Fix: choose tp a multiple of ep", lambda before, _: before.set("--tp", before.value("--ep"))),
    (
        r"Fix: (?:correct the sizes, or )?use a smaller ep",
        lambda before, _: (
            _half(_half(before, "--ep"), "--tp") if before.value("--tp") != "2" else _half(before, "--ep")
        ),
    ),
    (r"Fix: use a smaller tp", lambda before, _: _half(before, "--tp")),
)
"""How a reader does what a message says."""

_ALL_LETTERS = re.compile("(.*)").fullmatch("--E E --N N --K K --top-k top_k")


def led_out(first: Try) -> tuple[str, ...]:
    """The messages on the way to a workload or to «nothing to tune». A way that goes on for ever fails."""
    seen: list[str] = []
    attempt = first
    while message := attempt.message():
        assert message.isprintable()
        assert message not in seen, f"the fix leads back to: {message}"
        seen.append(message)
        if re.search(r"there is nothing to tune\b", message):
            break
        found = ((match, fix) for pattern, fix in FIXES if (match := re.search(pattern, message)))
        match, fix = next(found, (None, None))
        assert match is not None, f"no fix in: {message}"
        assert fix is not None
        attempt = fix(attempt, match)
        assert len(seen) < 6, seen
    return tuple(seen)


@pytest.fixture
def run() -> Callable[..., tuple[str, ...]]:
    devices = load_devices()

    def run(*flags: str, device_name: str = "NVIDIA H100 80GB HBM3") -> tuple[str, ...]:
        return led_out(Try(flags, device_name, devices))

    return run


Run = Callable[..., tuple[str, ...]]


@pytest.mark.parametrize(
    "flags",
    [
        ("--model", "mistralai/Mixtral-8x7B"),
        ("--model", "nobody/Nothing-1T"),
        ("--model", MIXTRAL, "--tp", "3"),
        ("--model", MIXTRAL, "--tp", "6", "--ep", "3"),
        ("--model", MIXTRAL, "--tp", "2", "--ep", "16"),
        ("--model", MIXTRAL, "--dtype", "bf61"),
        ("--model", MIXTRAL, "--block-shape", "128,128"),
        ("--model", MIXTRAL, "--dtype", "bf16", "--per-channel-quant"),
        ("--model", MIXTRAL, "--dtype", "fp8_w8a8", "--per-channel-quant", "--block-shape", "128,128"),
        ("--model", "deepseek-ai/DeepSeek-V3", "--tp", "128"),
        ("--E", "8", "--N", "7168", "--K", "4096", "--top-k", "2", "--block-shape", "128,128"),
    ],
    ids=" ".join,
)
def test_a_fix_leads_to_a_workload(flags: tuple[str, ...], run: Run) -> None:
    messages = run(*flags)
    assert messages
    assert "nothing to tune" not in messages[-1]


@pytest.mark.parametrize(
    "flags",
    [
        ("--model", "openai/gpt-oss-120b"),
        ("--model", "moonshotai/Kimi-K2-Thinking", "--tp", "8"),
        ("--model", "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"),
        ("--model", MIXTRAL, "--dtype", "fp8_w8a16"),
        ("--E", "8", "--N", "7168", "--K", "4096", "--top-k", "2", "--dtype", "nvfp4"),
        ("--E", "128", "--N", "1856", "--K", "2688", "--top-k", "6"),
        ("--E", "512", "--N", "2688", "--K", "1024", "--top-k", "22", "--dtype", "fp8_w8a8"),
    ],
    ids=" ".join,
)
def test_or_there_is_nothing_to_tune(flags: tuple[str, ...], run: Run) -> None:
    (message,) = run(*flags)
    assert re.search(r"there is nothing to tune\.$", message)


@pytest.mark.parametrize(
    ("device_name", "ends_with"),
    [
        ("NVIDIA GeForce RTX 9999", "Fix: add"),
        ("AMD Radeon Graphics", "Fix: give"),
        ("Intel(R) Arc(TM) Pro B60 Graphics", "nothing to tune"),
        ("Intel(R) Data Center GPU Max 9999", "nothing to tune"),
    ],
)
def test_so_does_that_of_a_gpu(device_name: str, ends_with: str, run: Run) -> None:
    (message,) = run("--model", MIXTRAL, device_name=device_name)
    assert ends_with in message


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_so_does_that_of_a_config_json(case: Any, run: Run, tmp_path: Path) -> None:
    path = written(tmp_path, case["config"], case.get("hf_quant_config"))
    messages = run("--config-json", str(path))
    expected = case["expect"]
    assert bool(messages) is ("file" not in expected)
    if "file" not in expected:
        told = expected.get("refuse", "") if "threads" in case else SAYS[case["name"]]
        assert re.search(told, messages[0]), messages[0]


SAYS = {
    "dsv4-flash": r"\(expert_dtype\): mxfp4 experts run another kernel",
    "modelopt-beside": r"\(hf_quant_config.json, quantization\): nvfp4 experts run another kernel",
    "nemotron3-super": r"mlp_hidden_act 'relu2'\) and moe_latent_size 1024: there is nothing to tune",
    "ernie-vl-tf5": r"text_config.moe_intermediate_size: expected one size, .*\[1536, 512\]",
    "gpt-oss": r"\(quantization_config\): mxfp4 experts run another kernel .*gpt-oss",
}
"""What the cases' own words for a refusal come to."""


@pytest.mark.parametrize(
    "changes",
    [
        {"num_experts": None},
        {"moe_intermediate_size": None, "intermediate_size": 6144},
        {"hidden_size": "wide"},
        {"num_experts_per_tok": 200},
        {"hidden_act": "unheard-of"},
        {"moe_latent_size": 1024},
        {"expert_dtype": "fp6"},
        {"dtype": "float6"},
        {"quantization_config": {"quant_method": "exl3"}},
        {"quantization_config": {"quant_method": "fp8", "ignored_layers": ["re:.*down_proj.*"]}},
        {"quantization_config": {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}},
        {"quantization_config": {"quant_method": "gguf"}},
        {"mystery": {"quantization_config": {"quant_method": "fp8"}}},
    ],
    ids=str,
)
def test_so_does_what_the_reader_does_not_know(changes: Any, run: Run, tmp_path: Path) -> None:
    assert run("--config-json", str(written(tmp_path, {**PLAIN, **changes})))
