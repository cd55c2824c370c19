"""Benchmarks: their problems, which anybody may read, and their answers, which only a grading process opens."""
