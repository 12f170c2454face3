"""Charts and pages: one Vega-Lite spec for SVG, PNG and an offline page. Used by `data.describe`, the analysis and the benchmarks."""
