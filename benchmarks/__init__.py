"""Measurements, side by side in one session; their results lie in `results/`."""
