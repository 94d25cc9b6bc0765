"""Measurements of fewstep, in rooms by question. Run from the root of the repository: `python -m benchmarks.speed.sine`."""
