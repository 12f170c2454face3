"""The machine of a run: its devices and their mesh, the host's memory, code compiled for its processor."""
