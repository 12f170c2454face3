"""DLRM in Flax with sharded, sparsely trained embedding tables."""

from dlrm_jax.common import starting

starting.while_starting(__name__)
