"""Synthetic clicks with known scaling exponents: the teacher, its draws, the source, and the theory that judges a run."""
