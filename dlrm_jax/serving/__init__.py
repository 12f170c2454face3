"""Uses a trained model: restores it from a checkpoint, scores the rows of files (`predict`), exports it as StableHLO (`export`)."""
