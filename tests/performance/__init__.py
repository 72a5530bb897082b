"""Benchmarks: programs that print ratios, not timed tests."""
