"""Measurements of speed and memory; README.md describes them, results/ has their results."""
