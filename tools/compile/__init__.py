"""Compiling launch configs for any GPU on a machine that has none. Never imports torch."""
