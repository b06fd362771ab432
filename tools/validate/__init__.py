"""Proves tuned files without a GPU: `python -m tools.validate --help`."""
