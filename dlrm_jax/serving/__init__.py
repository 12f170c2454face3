"""From a trained model to its use: restored from a checkpoint, scoring the rows of files (`predict`), exported as StableHLO (`export`)."""
