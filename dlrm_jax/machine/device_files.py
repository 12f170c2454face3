"""Whether this machine has an accelerator, by its device files alone. Imports no jax, so that a program which asks holds no device."""

import glob

_DEVICE_FILES = ("/dev/accel*", "/dev/vfio/[0-9]*", "/dev/nvidiactl", "/dev/kfd")


def accelerators() -> bool:
  """Whether there is a device file of a TPU, or of a GPU of NVIDIA or AMD."""
  return any(glob.glob(pattern) for pattern in _DEVICE_FILES)
