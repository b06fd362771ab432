"""The portfolio: which tuned files people need, what is there of them, and a driver that tunes and judges the rest."""
