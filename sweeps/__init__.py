"""Sweeps over every scaling axis: from flags to one record per run."""
