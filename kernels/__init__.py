"""The fused MoE kernels that are tuned.

Modules named `*_kernel.py` hold JIT functions and import triton only. `launch_config`, `problem` and `launch` import
neither torch nor triton. The rest is the torch host half.
"""
