"""Benchmarks of the training step and of its parts, and the step compiled for hardware that is absent."""
