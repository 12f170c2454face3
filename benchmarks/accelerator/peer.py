"""Section `peer`: the same steps by PyTorch on this machine, with its own sparse tables, a Triton kernel, and fbgemm, as far as installed.

Optimisers as ours: Adagrad for the MLPs, row-wise Adagrad for the tables; PyTorch's own tables have Adagrad and SGD.
"""

import dataclasses
import functools
import importlib.metadata
import importlib.util
import time
from typing import Any

import numpy as np

from benchmarks.accelerator.rows import Rows
from benchmarks.measure.table import Row
from benchmarks.peers.worker import Spec

_FEATURES, _DENSE, _BATCHES, _ROUNDS = 26, 13, 4, 5
_W1 = Spec("", "step", 100_000, 16, (512, 256, 64, 16), (512, 256, 1), "", 0.05, 0.02, 0.05, (0,), "")
_LARGE = dataclasses.replace(_W1, num_rows=1_000_000, embed_dim=128, bottom=(512, 256, 128), overarch=(1024, 1024, 512, 256, 1))
_PACKAGES = ("torch", "triton", "fbgemm_gpu", "fbgemm_gpu_cpu")


def measure(rows: Rows) -> None:
  """Keeps a row for each trainer and size; one row that says so where PyTorch is not installed."""
  if importlib.util.find_spec("torch") is None:
    rows.keep({"what": "PyTorch is not installed: nothing is compared"})
    return
  import torch

  device = "cuda" if torch.cuda.is_available() else "cpu"
  rows.keep({"what": "packages", "device": torch.cuda.get_device_name() if device == "cuda" else "cpu"} | _versions())
  torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
  large, batch = (dataclasses.replace(_LARGE, num_rows=1000), 64) if rows.tiny else (_LARGE, 65_536)
  small = dataclasses.replace(_W1, num_rows=1000) if rows.tiny else _W1
  present = [name for name in ("fbgemm", "triton", "pytorch_sgd", "pytorch_adagrad") if _there(name, device)]
  todo = [(name, large, batch, "emb", "float32") for name in present]
  todo += [(name, large, batch, "step", dtype) for name in present if name != "pytorch_sgd" for dtype in ("bfloat16", "float32")]
  todo += [(name, small, 64 if rows.tiny else 2048, "step", "float32") for name in present]
  if device == "cpu" and not rows.tiny:  # the large step takes a CPU half a minute
    todo = [each for each in todo if each[1] is small]
  for name, spec, size, workload, dtype in todo:
    spec = dataclasses.replace(spec, trainer=name, workload=workload, table_optimizer=name.removeprefix("pytorch_"))
    about = {"trainer": name, "workload": workload, "num_rows": spec.num_rows, "embed_dim": spec.embed_dim, "batch_size": size}
    steps = 2 if rows.tiny else 20 if size > 10_000 else 100 if device == "cuda" else 10
    rows.case(functools.partial(_timed, spec, size, dtype, device, steps), **about, compute_dtype=dtype)


def _versions() -> Row:
  out = {}
  for name in _PACKAGES:
    if importlib.util.find_spec(name.removesuffix("_cpu")):
      try:
        out[f"version_{name}"] = importlib.metadata.version(name)
      except importlib.metadata.PackageNotFoundError:
        continue
  return out


def _there(trainer: str, device: str) -> bool:
  """Whether a trainer is installed and runs on this device."""
  if trainer == "triton":
    return device == "cuda" and importlib.util.find_spec("triton") is not None
  return trainer != "fbgemm" or importlib.util.find_spec("fbgemm_gpu") is not None


def _tables(spec: Spec, device: str) -> Any:
  from benchmarks.peers.torch_tables import BagTables, FbgemmTables

  if spec.trainer == "triton":
    from benchmarks.accelerator.triton_tables import TritonTables

    return TritonTables(spec, _FEATURES, device)
  return (FbgemmTables if spec.trainer == "fbgemm" else BagTables)(spec, _FEATURES, device)


def _timed(spec: Spec, batch_size: int, dtype: str, device: str, steps: int) -> Row:
  """Times of a step, waited for and pipelined, and the peak of device memory. On a GPU the model is compiled by torch."""
  import torch
  from torch import nn

  from benchmarks.peers.torch_dense import Dense

  torch.manual_seed(0)
  tables, rng = _tables(spec, device), np.random.default_rng(0)
  for table in tables.weights():
    table.uniform_(-spec.table_init, spec.table_init)
  dense = Dense(_DENSE, _FEATURES, spec.bottom, spec.overarch).to(device)
  optimizer = torch.optim.Adagrad(dense.parameters(), lr=spec.dense_lr, initial_accumulator_value=0.1, eps=1e-7)
  batches = []
  for _ in range(_BATCHES):
    x_bm, label_b = rng.normal(size=(batch_size, _DENSE)).astype(np.float32), (rng.random(batch_size) < 0.25).astype(np.float32)
    ids_bf = torch.tensor((spec.num_rows * rng.random((batch_size, _FEATURES)) ** 3).astype(np.int64), device=device)
    batches.append((torch.tensor(x_bm, device=device), tables.prepare(ids_bf), torch.tensor(label_b, device=device)))
  grad_bfd = torch.randn(batch_size, _FEATURES, spec.embed_dim, device=device) / batch_size

  def loss_of(x_bm: Any, rows_bfd: Any, label_b: Any) -> Any:
    with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
      logit_b = dense(x_bm, rows_bfd)
    return nn.functional.binary_cross_entropy_with_logits(logit_b.float(), label_b)

  compiled = torch.compile(loss_of) if device == "cuda" else loss_of

  def step(number: int) -> None:
    x_bm, ids, label_b = batches[number % _BATCHES]
    rows_bfd = tables.lookup(ids)
    if spec.workload == "emb":
      rows_bfd.backward(grad_bfd)
    else:
      compiled(x_bm, rows_bfd, label_b).backward()
      optimizer.step()
      optimizer.zero_grad()
    tables.step()

  wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
  for number in range(5 if device == "cuda" else 2):
    step(number)
  wait()
  each, rounds, waited = -(-steps // _ROUNDS), [], []
  for _ in range(_ROUNDS):
    start = time.perf_counter()
    for number in range(each):
      step(number)
    wait()
    rounds.append((time.perf_counter() - start) / each)
  for number in range(steps):
    start = time.perf_counter()
    step(number)
    wait()
    waited.append(time.perf_counter() - start)
  out: Row = {"pipelined_ms": 1e3 * float(np.median(rounds)), "step_ms_p50": 1e3 * float(np.median(waited))}
  out["pipelined_examples_per_s"] = 1e3 * batch_size / out["pipelined_ms"]
  if device == "cuda":
    out["peak_device_bytes"] = torch.cuda.max_memory_allocated()
    del tables, dense, optimizer, batches
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
  return out
