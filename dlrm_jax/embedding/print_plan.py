"""Prints a plan as a table on standard error: the placement of each table, the bytes a device holds, and the bytes exchanged in a step."""

from dlrm_jax.common import terminal
from dlrm_jax.config import RunConfig
from dlrm_jax.embedding.placement import Plan
from dlrm_jax.embedding.planner import Machine, costs, memory_limit, plan_bytes, working_bytes


def print_plan(plan: Plan, config: RunConfig, machine: Machine) -> None:
  """Prints the table, and a last line with the totals and the available memory."""
  console, planned = terminal.console(least=100, stderr=True), costs(plan, config, machine)  # 100: numbers stay whole
  title = f"tables on {machine.num_devices} devices, batch {config.train.batch_size:,}: per device and step"
  table = terminal.Grid(title, simple=True)
  for heading in ("table", "rows", "dim", "bag", "placement", "holds", "rows, gradients", "ids, sums"):
    table.column(heading, justify="left" if heading in ("table", "placement") else "right", no_wrap=heading != "table")
  for t, c in zip(plan.layout.tables, planned, strict=True):
    sizes = (size_of(c.held_bytes), size_of(c.value_bytes), size_of(c.other_bytes))
    table.row(t.name, f"{t.num_rows:,}", t.dim, t.bag_length, c.placement, *sizes)
  console.print(table)
  held, moved = plan_bytes(plan, config.train.table_optimizer), sum(c.value_bytes + c.other_bytes for c in planned)
  limit = memory_limit(config, machine)
  memory = f" of {size_of(limit)}" if limit is not None else ""
  working = size_of(working_bytes(config, plan.layout, machine.num_devices))
  summary = f"a device holds {size_of(held)} of tables{memory}, about {working} more in a step, and exchanges {size_of(moved)}"
  console.print(summary, soft_wrap=True)


def size_of(count: float) -> str:
  """Formats bytes with a unit, for people."""
  for unit in ("B", "KiB", "MiB"):
    if count < 1024:
      return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
    count /= 1024
  return f"{count:,.2f} GiB"
