"""What several benchmarks share: timing, ceilings of the hardware, the workloads and pieces they time, and their output."""
