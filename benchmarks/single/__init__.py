"""Measurements of this project alone: what each mechanism gains, what grows, where the time of a step goes."""
