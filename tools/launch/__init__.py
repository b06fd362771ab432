"""Launch configs as the kernel takes them: search space, the engines' heuristics, shared memory; kernels' sources."""
