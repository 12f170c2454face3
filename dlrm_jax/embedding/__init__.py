"""The embedding engine: tables outside nnx and optax, their placement on devices, lookups, and sparse updates."""
