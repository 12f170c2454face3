"""The names of the axes that a sweep varies. The sweeps write them into their records, and the analysis reads them there."""

SCHEMES = ("data", "rows", "dim", "overarch", "mlp")  # the scaling axes of the paper, and the default of a sweep
HARDWARE_AXES = ("devices", "placement")  # they change the speed, not what is learned
AXES = (*SCHEMES, "overarch_depth", "mlp_depth", "tables", "all", "batch_size", *HARDWARE_AXES)  # in the order of tables and figures
GRID = "*"  # joins the axes of a grid into its name: rows*dim
