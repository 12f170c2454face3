"""Training: one run or several from the first step to the record, with evaluations, metrics and checkpoints."""
