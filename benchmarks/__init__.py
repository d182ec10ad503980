"""Benchmarks: scripts that each measure one thing, and the suite that runs and tabulates them."""
