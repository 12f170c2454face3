"""The study of STUDY.md: its kept sweeps, its figure, and theory's predictions for it."""
