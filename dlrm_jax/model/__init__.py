"""The dense part of DLRM in flax.nnx, and the counts of its parameters and FLOPs."""
