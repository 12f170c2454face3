"""The first minutes on a machine: are results right, how fast is it, what is lost where. `python -m benchmarks.accelerator`."""
