"""The dense part of DLRM, in flax.nnx."""
