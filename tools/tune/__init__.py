"""The tuner: from a workload to a tuned file with its evidence. `python -m tools.tune`."""
