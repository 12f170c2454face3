"""Data sheets of devices: peak FLOP/s, bytes/s and bytes of memory. Used by ceilings.py; touches no device.

FLOP/s are those of dense products. NVIDIA's sheets print twice as much, for matrices with zeros in half of the elements in a fixed
pattern. The peak that a step could reach depends on how jax computes a product (jax.lax.Precision):

- bfloat16 operands: the bfloat16 peak at every precision.
- float32 operands on a TPU: its units multiply bfloat16 only. `default` takes one pass (the bfloat16 peak), `high` three passes (a third
  of it), `highest` six (a sixth).
- float32 operands on a GPU: TF32 at `default` and `high` on chips that have it (Ampere and later), otherwise float32.

CPUs are not in the table, since their clock and vector width depend on what runs. Their ceilings are measured.
"""

import dataclasses

_GIB = 1 << 30  # sheets print GB of memory but mean GiB
_TPU_PASSES = {"default": 1, "high": 3, "highest": 6}  # bfloat16 passes of a float32 product


@dataclasses.dataclass(frozen=True)
class Peak:
  """The data sheet of one device.

  Attributes:
    bfloat16, tfloat32, float32: FLOP/s of dense products; None where the device has no units for that dtype.
    bytes_per_s: memory bandwidth, reads and writes together.
    memory_bytes: memory of the device.
    source: the document.
  """

  bfloat16: float | None
  tfloat32: float | None
  float32: float | None
  bytes_per_s: float
  memory_bytes: int
  source: str


_V4 = Peak(275e12, None, None, 1.2e12, 32 * _GIB, "Google Cloud, TPU v4: 275 TFLOPs, 32 GiB at 1200 GBps a chip")
_V5E = Peak(197e12, None, None, 819e9, 16 * _GIB, "Google Cloud, TPU v5e: 197 TFLOPs, 16 GB at 819 GBps a chip")
_V5P = Peak(459e12, None, None, 2.765e12, 95 * _GIB, "Google Cloud, TPU v5p: 459 TFLOPs, 95 GB at 2765 GBps a chip")
_V6E = Peak(918e12, None, None, 1.638e12, 32 * _GIB, "Google Cloud, TPU v6e: 918 TFLOPs, 32 GB at 1638 GBps a chip")

_V100 = Peak(
  None, None, 15.7e12, 900e9, 16 * _GIB, "NVIDIA V100 data sheet, SXM2: 15.7 TFLOPS, 900 GB/s; its tensor cores know float16 only"
)
_A100 = Peak(312e12, 156e12, 19.5e12, 1.555e12, 40 * _GIB, "NVIDIA A100 data sheet, SXM, 40 GB: 312, 156, 19.5 TFLOPS, 1,555 GB/s")
_L4 = Peak(121e12, 60e12, 30.3e12, 300e9, 24 * _GIB, "NVIDIA L4 data sheet: 242 and 120 TFLOPS with sparsity, 30.3, 300 GB/s")
_L40S = Peak(362.05e12, 183e12, 91.6e12, 864e9, 48 * _GIB, "NVIDIA L40S data sheet: 362.05, 183, 91.6 TFLOPS, 864 GB/s")
_H100 = Peak(989.4e12, 494.7e12, 66.9e12, 3.35e12, 80 * _GIB, "NVIDIA H100 architecture white paper, SXM5, dense; data sheet: 3.35 TB/s")
_H100_PCIE = Peak(756e12, 378e12, 51e12, 2.0e12, 80 * _GIB, "NVIDIA H100 data sheet, PCIe: 1,513 and 756 TFLOPS with sparsity, 51, 2 TB/s")
_B200 = Peak(
  2250e12,
  1125e12,
  75e12,
  7.7e12,
  180 * _GIB,
  "NVIDIA HGX B200, an eighth of 36 and 18 PFLOPS with sparsity and of 600 TFLOPS; 7.7 TB/s a GPU",
)

# Keys are jax's device_kind in lower case without the maker's name. Whole names are compared: "gb200" contains "b200", "tpu v4 lite"
# contains "tpu v4", and the name of a GPU's slice (MIG) begins with the name of the GPU.
_PEAKS: dict[str, Peak] = {
  "tpu v4": _V4,
  "tpu v5 lite": _V5E,
  "tpu v5e": _V5E,
  "tpu v5": _V5P,
  "tpu v5p": _V5P,
  "tpu v6 lite": _V6E,
  "tpu v6e": _V6E,
  "v100-sxm2-16gb": _V100,
  "v100-sxm2-32gb": dataclasses.replace(_V100, memory_bytes=32 * _GIB),
  "a100-sxm4-40gb": _A100,
  "a100-sxm4-80gb": dataclasses.replace(
    _A100, bytes_per_s=2.039e12, memory_bytes=80 * _GIB, source="NVIDIA A100 data sheet, SXM, 80 GB: 312, 156, 19.5 TFLOPS, 2,039 GB/s"
  ),
  "l4": _L4,
  "l40s": _L40S,
  "h100 80gb hbm3": _H100,
  "h100 pcie": _H100_PCIE,
  "h200": dataclasses.replace(
    _H100, bytes_per_s=4.8e12, memory_bytes=141 * _GIB, source="NVIDIA H200 data sheet, SXM: products as the H100's, 141 GB at 4.8 TB/s"
  ),
  "b200": _B200,
}


def find(device_kind: str) -> Peak | None:
  """The sheet of a device by jax's `device_kind`; None unless the table has exactly that name."""
  return _PEAKS.get(" ".join(device_kind.lower().split()).removeprefix("nvidia ").removeprefix("tesla "))


def peak(device_kind: str, platform: str, compute_dtype: str, matmul_precision: str) -> tuple[float, float] | None:
  """The most FLOP/s and bytes/s that one device could reach, or None where its sheet does not give them.

  Args:
    device_kind, platform: attributes of a jax device ("NVIDIA L4", "gpu").
    compute_dtype: dtype of the operands, "bfloat16" or "float32".
    matmul_precision: "default", "high" or "highest"; for its effect on float32 see the top of this file.
  """
  sheet = find(device_kind)
  if sheet is None:
    return None
  if compute_dtype == "bfloat16":
    flops = sheet.bfloat16
  elif platform == "tpu":
    flops = sheet.bfloat16 and sheet.bfloat16 / _TPU_PASSES[matmul_precision]
  elif matmul_precision == "highest":
    flops = sheet.float32
  else:
    flops = sheet.tfloat32 or sheet.float32
  return None if flops is None else (flops, sheet.bytes_per_s)
