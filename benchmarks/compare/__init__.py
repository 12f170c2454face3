"""Results of several benchmark runs compared row by row: `python -m benchmarks.compare`."""
