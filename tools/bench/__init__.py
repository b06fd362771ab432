"""Timing launch configs on a GPU: one kernel beside another with the same inputs and launch configs.

What is compared (contenders, engine_comparison) is apart from how it is measured (timing, inputs, ceilings).
"""
