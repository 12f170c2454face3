"""DLRM in Flax with sharded, sparsely trained embedding tables."""

from dlrm_jax.common import interrupts

interrupts.while_starting(__name__)
