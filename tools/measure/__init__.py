"""One measured row: inputs, routing, timing and its arithmetic, the GPU at hand, our kernel and an engine's own."""
