"""One batch size of one workload on the GPU: launches of any kernel, checked against the reference. Needs a GPU."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch

from kernels.problem import Problem
from kernels.reference import product_reference
from kernels.testing import assert_close, product_bound
from tools.launch.layer_config import LayerConfig
from tools.measure.inputs import RowInputs, Weights, checked_tokens
from tools.measure.kernels import Kernel, problems_of
from tools.measure.layer import DOWN, UP, LayerShape
from tools.measure.timing import LaunchCall

NUM_CHECKED_TOKENS = 64


class RowBench:
    """Launches over a row's inputs. arch as `kernels.problem` spells it. num_checked: tokens compared in a check."""

    def __init__(
        self, shape: LayerShape, weights: Weights, inputs: RowInputs, arch: str, num_checked: int = NUM_CHECKED_TOKENS
    ) -> None:
        self.shape, self.inputs = shape, inputs
        self._weights, self._arch, self._num_checked = weights, arch, num_checked
        self._expected: dict[int, tuple[object, _Expected]] = {}

    def launches(
        self, kernel: Kernel, config: LayerConfig, projection: int, count: int | None = None
    ) -> list[LaunchCall]:
        """One for each routing, or for the first `count`."""
        routings = range(self.inputs.num_routings)[:count]
        return [self.launch(kernel, config, projection, i) for i in routings]

    def layers(self, kernel: Kernel, config: LayerConfig, count: int | None = None) -> list[LaunchCall]:
        """Up, then down, of each routing or the first `count`: the layer's order, in which launches may overlap."""
        both = (self.launches(kernel, config, projection, count) for projection in (UP, DOWN))
        return [launch for pair in zip(*both, strict=True) for launch in pair]

    def launch(self, kernel: Kernel, config: LayerConfig, projection: int, routing: int) -> LaunchCall:
        """ValueError: a rule forbids the launch."""
        problem = self._problem(kernel, config, projection)
        bound = kernel.bind(problem, self.inputs.pointers(projection, problem, routing))
        jit = kernel.load()[bound.grid]
        return lambda: jit(*bound.args, **bound.kwargs)

    def binaries(self, kernel: Kernel, config: LayerConfig) -> Hashable:
        """Equal where two rows run the same ones, up and down. ValueError as `launch`."""
        keys = (kernel.key(self._problem(kernel, config, projection)) for projection in (UP, DOWN))
        return (kernel.name, *keys)

    def check(self, kernel: Kernel, config: LayerConfig, projection: int) -> None:
        """AssertionError: an output isn't written, or is beyond the derived bound of the fp64 reference.

        Pairs of other ranks: their rows must be zeros, or, where the engine leaves the pairs out or up's rows in the
        alignment's order, stay as they were.
        """
        where = f"{kernel.name}, {('up', 'down')[projection]}"
        dealt, expected = self._expected.get(projection, (None, None))
        if expected is None or dealt != self.inputs.dealt:
            expected = self._reference(projection)
            self._expected[projection] = self.inputs.dealt, expected
        problem = self._problem(kernel, config, projection)
        self.inputs.prepare(projection, problem, expected.routing)
        self.launch(kernel, config, projection, expected.routing)()
        c = self.inputs.output(projection, problem, expected.routing)
        is_foreign = self.inputs.topk_ids[expected.routing].flatten() < 0
        if bool(c[~is_foreign].isnan().any()):
            raise AssertionError(f"{where}: expected every output written, found NaN.")
        foreign = c[is_foreign]
        if self.inputs.foreign_pairs(kernel.flavour).store_zeros and not problem.descriptors.sorted_c:
            if bool((foreign != 0).any()):
                raise AssertionError(f"{where}: expected zeros for experts of other ranks, found something else.")
        elif not bool(foreign.isnan().all()):
            raise AssertionError(f"{where}: expected the rows of other ranks' experts left alone, found them written.")
        bound = product_bound(self.shape.projections[projection].k, self.shape.quant, c.dtype)
        if not len(expected.pairs):  # few tokens may choose nothing here
            return
        assert_close(c[expected.pairs], expected.values, expected.magnitude, bound, where)

    def _problem(self, kernel: Kernel, config: LayerConfig, projection: int) -> Problem:
        """ValueError: a rule forbids the launch."""
        return problems_of(kernel, self.shape, self.inputs.routing.num_tokens, config, self._arch)[projection]

    def _reference(self, projection: int) -> _Expected:
        """Of the routing with most pairs on this rank, some tokens that have such."""
        inputs, top_k = self.inputs, self.shape.top_k
        routing = max(range(inputs.num_routings), key=lambda index: int((inputs.topk_ids[index] >= 0).sum()))
        is_local = inputs.topk_ids[routing] >= 0
        a, a_scale = inputs.a[projection], inputs.a_scales[projection]
        here = is_local.any(1).nonzero().flatten()
        if not len(here):
            nothing = torch.empty(0, device=a.device)
            return _Expected(routing, here, nothing, nothing)
        tokens = here[torch.tensor(checked_tokens(len(here), self._num_checked), dtype=torch.int64, device=a.device)]
        pairs = (tokens[:, None] * top_k + torch.arange(top_k, device=a.device)).flatten()
        rows = tokens if projection == UP else pairs
        if a_scale is not None and a_scale.dim() == 2:
            a_scale = a_scale[rows]
        values, magnitude = product_reference(
            a[rows],
            self._weights.w[projection],
            inputs.topk_ids[routing][tokens],
            None if projection == UP else inputs.topk_weights[routing][tokens],
            quant=self.shape.quant,
            a_scale=a_scale,
            b_scale=self._weights.scales[projection],
        )
        kept = is_local[tokens].flatten()
        return _Expected(routing, pairs[kept], values[kept], magnitude[kept])


@dataclass(frozen=True)
class _Expected:
    """routing: which of the row's. pairs: the checked ones, all on this rank. values, magnitude: of their outputs."""

    routing: int
    pairs: torch.Tensor
    values: torch.Tensor
    magnitude: torch.Tensor
