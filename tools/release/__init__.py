"""Dated releases: whether one is due, and its version."""
