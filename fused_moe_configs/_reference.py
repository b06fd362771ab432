REFERENCE_TRITON = "3.8.0"
"""The Triton that the default tier is tuned with."""
