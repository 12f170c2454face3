"""Whether this machine has an accelerator, by its device files alone. Imports no jax, so that a program which asks holds no device."""

import glob

_DEVICE_FILES = {"tpu": ("/dev/accel*", "/dev/vfio/[0-9]*"), "nvidia": ("/dev/nvidiactl",), "amd": ("/dev/kfd",)}


def accelerators(kind: str | None = None) -> bool:
  """Whether there is a device file of a kind, a key of `_DEVICE_FILES`, or of any."""
  patterns = _DEVICE_FILES[kind] if kind else tuple(pattern for some in _DEVICE_FILES.values() for pattern in some)
  return any(glob.glob(pattern) for pattern in patterns)
