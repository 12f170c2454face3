"""Benchmarks of the training step and of its parts, and the step compiled for hardware that is absent."""

from dlrm_jax.common import starting

starting.while_starting(__name__)
