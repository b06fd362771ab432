"""The subcommands of the published command, one module each: its arguments (`add_to`), and `run`, the exit code."""
