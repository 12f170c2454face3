"""Compares our training step with other libraries' on one machine: `python -m benchmarks.peers`.

The torch_*.py files run in an environment of their own (`make peers`) and import nothing of dlrm_jax.
"""
