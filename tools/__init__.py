"""Everything behind a nox session. `python -m tools.NAME --help` tells what each tool does."""
