"""Sweeps over every scaling axis: from flags to one record per run."""

from dlrm_jax.common import starting

starting.while_starting(__name__)
