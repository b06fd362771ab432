"""A GPU that isn't there: what a bench asks torch for, and times made up by launch config."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tools.bench import compare_files, session, time_files
from tools.bench.candidates import FileComparison, Judging
from tools.bench.time_files import Failures
from tools.compile.pool import CompilePool
from tools.launch.layer_config import LayerConfig
from tools.measure import environment
from tools.measure.judgement import Play, PlayedPart, RowVerdict, judge
from tools.measure.kernels import Kernel
from tools.registry.devices import Device

H100 = "NVIDIA H100 80GB HBM3"
JITTER_US = (0.0, 0.1, -0.1, 0.0)


def fake_torch(
    name: str = H100, *, free_gib: int = 79, total_gib: int = 80, hip: str | None = None, **cuda: Any
) -> Any:
    """torch, as far as the bench's edge asks it; `cuda` replaces what `torch.cuda` answers. hip: of ROCm's."""
    answers = {
        "is_available": lambda: True,
        "get_device_name": lambda: name,
        "mem_get_info": lambda: (free_gib << 30, total_gib << 30),
        "current_device": lambda: 0,
        "get_device_properties": lambda index: SimpleNamespace(
            L2_cache_size=50 << 20, major=9, minor=0, multi_processor_count=132, gcnArchName="gfx942:sramecc+:xnack-"
        ),
        "empty_cache": lambda: None,
        "memory_reserved": lambda: 0,
        "Stream": object,
        "stream": contextlib.nullcontext,
    }
    return SimpleNamespace(
        __version__="2.13.0+cu129",
        version=SimpleNamespace(cuda="12.9", hip=hip),
        cuda=SimpleNamespace(**{**answers, **cuda}),
        device=lambda kind, index: f"{kind}:{index}",
        OutOfMemoryError=MemoryError,
    )


@dataclass
class FakeGpu:
    """us: the time of a launch config at a batch size; a text is why it fails. What was asked for is kept."""

    us: Callable[[LaunchConfig, int], float | str]
    does_not_compile: Mapping[LaunchConfig, str] = field(default_factory=dict)
    comparisons: list[FileComparison] = field(default_factory=list)
    judgings: list[Judging] = field(default_factory=list)
    kernels: list[Mapping[Flavour, Kernel]] = field(default_factory=list)
    devices: list[Device] = field(default_factory=list)

    def install(self, monkeypatch: pytest.MonkeyPatch, torch: Any = None) -> FakeGpu:
        """In place of the edge: torch, nvidia-smi, the compiler and the clock."""
        monkeypatch.setattr(session, "torch_with_gpu", lambda: torch or fake_torch())
        monkeypatch.setattr(environment, "driver", lambda: "575.57.08")
        monkeypatch.setattr(CompilePool, "start", lambda pool: None)
        monkeypatch.setattr(compare_files, "measure_ceilings", lambda device: "ceilings")
        monkeypatch.setattr(time_files, "compile_file", self.compile)
        monkeypatch.setattr(time_files, "player_of", lambda *arguments: "player")
        monkeypatch.setattr(time_files, "measure", self.measure)
        return self

    def compile(
        self, comparison: FileComparison, kernels: Mapping[Flavour, Kernel], device: Device, pool: CompilePool
    ) -> Failures:
        self.kernels.append(kernels)
        self.devices.append(device)
        failed = {LayerConfig.of(config): why for config, why in self.does_not_compile.items()}
        return {(engine, m): failed for engine in kernels for m in comparison.batch_sizes}

    def measure(
        self, comparison: FileComparison, judging: Judging, player: Any, ceilings: Any, failures: Failures
    ) -> Iterator[RowVerdict]:
        assert (player, ceilings) == ("player", "ceilings")
        self.comparisons.append(comparison)
        self.judgings.append(judging)
        for num_tokens in sorted(comparison.batch_sizes, reverse=True):
            parts = []
            for part in comparison.parts(num_tokens, judging):
                play = self._play(num_tokens, failures[part.engine, num_tokens])
                entries = comparison.entries(num_tokens, part.engine)
                parts.append(judge(part, entries, play, judging.first_block, judging.most_blocks))
            yield RowVerdict(num_tokens, tuple(parts))

    def _play(self, num_tokens: int, known: Mapping[LayerConfig, str]) -> Play:
        def play(configs: Sequence[LayerConfig], blocks: range) -> PlayedPart:
            found = {config: known.get(config) or self.us(config.up, num_tokens) for config in configs}
            failures = {config: us for config, us in found.items() if isinstance(us, str)}
            us = {
                config: tuple(us + JITTER_US[block % 4] for block in blocks)
                for config, us in found.items()
                if not isinstance(us, str)
            }
            return PlayedPart(us, failures, 8, 10.0, "memory")

        return play
