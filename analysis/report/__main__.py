"""Fits and draws the scaling laws of a sweep: an offline page, a table of laws, the points, and every figure as SVG and PNG.

  python -m analysis.report --workdir=DIR

Reads DIR/sweep.json and DIR/runs/*, or the record of a single run in DIR; writes index.html, laws.json, points.csv, *.svg and *.png to
DIR/report. On planted data, law `power` is fitted to the excess, whose limit is 0. On a click log, `power_constant` is fitted to NE.
"""

from analysis.report.program import ReportConfig, main
from dlrm_jax.common import flags

if __name__ == "__main__":
  flags.run(main, ReportConfig)
