"""One batch size of one workload on the GPU: launches of any kernel, checked against the reference. Needs a GPU."""

from __future__ import annotations

import torch

from kernels.launch_config import LaunchConfig
from kernels.problem import Problem
from kernels.reference import product_reference
from kernels.testing import assert_close, product_bound
from tools.measure.inputs import RowInputs, Weights, checked_tokens
from tools.measure.kernels import Kernel
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
        self._expected: dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}

    def launches(
        self, kernel: Kernel, config: LaunchConfig, projection: int, count: int | None = None
    ) -> list[LaunchCall]:
        """One for each routing, or for the first `count`."""
        routings = range(self.inputs.num_routings)[:count]
        return [self.launch(kernel, config, projection, i) for i in routings]

    def layers(self, kernel: Kernel, config: LaunchConfig, count: int | None = None) -> list[LaunchCall]:
        """Up, then down, of each routing or the first `count`: the layer's order, in which launches may overlap."""
        both = (self.launches(kernel, config, projection, count) for projection in (UP, DOWN))
        return [launch for pair in zip(*both, strict=True) for launch in pair]

    def launch(self, kernel: Kernel, config: LaunchConfig, projection: int, routing: int) -> LaunchCall:
        """ValueError: a rule forbids this launch config."""
        sizes = self.inputs.routing_of(kernel.flavour)
        problem = Problem(self.shape.projections[projection], sizes, self.shape.quant, config, self._arch)
        bound = kernel.bind(problem, self.inputs.pointers(projection, config, routing, kernel.flavour))
        jit = kernel.load()[bound.grid]
        return lambda: jit(*bound.args, **bound.kwargs)

    def check(self, kernel: Kernel, config: LaunchConfig, projection: int) -> None:
        """AssertionError: an output isn't written, or is beyond the derived bound of the fp64 reference."""
        where = f"{kernel.name}, {('up', 'down')[projection]}"
        c = self.inputs.c[projection]
        c.fill_(torch.nan)
        self.launch(kernel, config, projection, 0)()
        if bool(c.isnan().any()):
            raise AssertionError(f"{where}: expected every output written, found NaN.")
        if projection not in self._expected:
            self._expected[projection] = self._reference(projection)
        pairs, expected, magnitude = self._expected[projection]
        k = self.shape.projections[projection].k
        assert_close(c[pairs], expected, magnitude, product_bound(k, self.shape.quant, c.dtype), where)

    def _reference(self, projection: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(indexes of the checked pairs, expected, magnitude) of the first routing."""
        inputs, top_k = self.inputs, self.shape.top_k
        a, a_scale = inputs.a[projection], inputs.a_scales[projection]
        tokens = torch.tensor(checked_tokens(inputs.routing.num_tokens, self._num_checked), device=a.device)
        pairs = (tokens[:, None] * top_k + torch.arange(top_k, device=a.device)).flatten()
        rows = tokens if projection == UP else pairs
        if a_scale is not None and a_scale.dim() == 2:
            a_scale = a_scale[rows]
        expected, magnitude = (
            product_reference(
                a[rows],
                self._weights.w[projection],
                inputs.topk_ids[0][tokens],
                None if projection == UP else inputs.topk_weights[0][tokens],
                quant=self.shape.quant,
                a_scale=a_scale,
                b_scale=self._weights.scales[projection],
                magnitude=magnitude,
            )
            for magnitude in (False, True)
        )
        return pairs, expected, magnitude
