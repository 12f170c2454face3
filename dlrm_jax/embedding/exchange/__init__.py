"""Moves rows and gradients between devices, with one module for each placement. Each module has two functions that run on every device:

- `fetch(group, arrays, lookups, axes)` returns the pooled vectors of this device's examples, {name: [B, F, D]}, and a route back.
- `deliver(group, route, grads, take_step, state, axes)` brings gradients to the devices that hold the rows, and calls
  `take_step(state, row_n, valid_n, {name: [n, D]})` there. All gradients of a row arrive in one call.

`arrays` holds the device's part of each stack. `axes` names the mesh axes, and is () on one device. Collectives have the named scopes
`exchange_values` (rows and their gradients), `exchange_ids`, `exchange_counts` and `exchange_squares`. The benchmarks find them by these.
"""
