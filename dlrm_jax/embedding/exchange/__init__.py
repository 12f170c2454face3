"""How each placement moves rows and gradients between devices. Every module has the same two functions, run on each device:

- `fetch(group, arrays, lookups, axes)`: the pooled vectors of this device's examples, {name: [B, F, D]}, and a route for the way back.
- `deliver(group, route, grads, take_step, state, axes)`: brings gradients to the devices that hold the rows and calls
  `take_step(state, row_n, valid_n, {name: [n, D]})` there, so that each row's gradients all arrive in one call.

`arrays` holds the device's part of each stack; `axes` names the mesh axes, () on one device. Collectives stand in named scopes,
`exchange_values` (rows and their gradients), `exchange_ids`, `exchange_counts` and `exchange_squares`, by which compiled programs are read.
"""
