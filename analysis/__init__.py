"""From records to laws: load, fit, intervals, figures, and the offline report (`analysis.fit`, `analysis.report`)."""

from dlrm_jax.common import starting

starting.while_starting(__name__)
