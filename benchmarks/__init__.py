"""Speed of the parts and of the whole, and the training step compiled for hardware that is absent."""
