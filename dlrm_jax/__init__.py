"""DLRM in Flax with sharded, sparsely trained embedding tables."""
