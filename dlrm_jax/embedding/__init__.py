"""The embedding engine: tables outside nnx and optax, gradients at the gathered rows, sparse updates."""
