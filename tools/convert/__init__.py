"""Takes over tuned files of other layouts: `python -m tools.convert --help`."""
