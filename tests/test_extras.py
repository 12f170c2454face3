"""Packages that only some programs need: the table agrees with pyproject.toml and the code, and what is missing is said in one line."""

import ast
import os
import re
import subprocess
import sys
import tomllib

import pytest
from places import ROOT

from dlrm_jax.common import extras

PACKAGES = ("dlrm_jax", "sweeps", "analysis", "benchmarks")
NAMES = {"absl": "absl-py", "orbax": "orbax-checkpoint", "vl_convert": "vl-convert-python"}  # of a module -> of its distribution
BROUGHT = {"grain": {"array_record"}, "jax": {"jaxlib"}}  # modules that come with another
PEERS = {"torch", "triton", "fbgemm_gpu", "torchrec", "sklearn"}  # of the environments that benchmarks compare with
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# A module of this name cannot be found: put first on the path of a process.
BLOCKED = """
import sys
class Blocked:
  def find_spec(self, name, path=None, target=None):
    if name.split(".")[0] in {names!r}:
      raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
"""


def distributions(listed: list[str]) -> set[str]:
  return {re.match(r"[\w-]+", one)[0] for one in listed}


def imported(path) -> set[str]:
  """The top-level names that a file imports."""
  out = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      out |= {name.name.split(".")[0] for name in node.names}
    elif isinstance(node, ast.ImportFrom) and not node.level:
      out.add((node.module or "").split(".")[0])
  return out


def test_every_import_is_of_the_core_or_of_the_extra_that_is_named():
  core, optional = distributions(PROJECT["dependencies"]), PROJECT["optional-dependencies"]
  brought = set().union(*BROUGHT.values())
  for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
    for name in imported(path) - set(sys.stdlib_module_names) - set(PACKAGES) - PEERS - brought:
      distribution = NAMES.get(name, name)
      if name in extras.EXTRAS:
        assert distribution in distributions(optional[extras.EXTRAS[name]]), name
      else:
        assert distribution in core, f"{path.relative_to(ROOT)} imports {name}"
  named = {NAMES.get(name, name) for name in extras.EXTRAS}
  assert named == set().union(*(distributions(optional[extra]) for extra in set(extras.EXTRAS.values()))) - {"dlrm-jax"}
  assert set(extras.EXTRAS.values()) == set(re.search(r"\[(.*)\]", optional["all"][0])[1].split(","))


@pytest.mark.parametrize(
  ("module", "package", "extra"),
  [("analysis.report", "polars", "data"), ("dlrm_jax.data.prepare", "xxhash", "data"), ("analysis.advise", "polars", "data")],
)
def test_a_program_that_lacks_a_package_names_the_extra_in_one_line(module, package, extra, tmp_path):
  (tmp_path / "sitecustomize.py").write_text(BLOCKED.format(names=set(extras.EXTRAS)))
  environment = os.environ | {"PYTHONPATH": str(tmp_path)}
  done = subprocess.run([sys.executable, "-m", module, "--help"], env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
  line = f"error: {package} is not installed, which this needs: pip install 'dlrm-jax[{extra}]' (all brings every extra)\n"
  assert (done.returncode, done.stderr, done.stdout) == (1, line, "")


def test_training_and_fits_need_no_extra(tmp_path):
  """Sections of a run that are imported late, too: a whole run, a plan and a fit."""
  (tmp_path / "sitecustomize.py").write_text(BLOCKED.format(names=set(extras.EXTRAS)))
  (tmp_path / "points.csv").write_text("x,y\n" + "".join(f"{2**i},{3 * 2 ** (-0.3 * i) + 1 + 0.001 * (i % 3)}\n" for i in range(10, 22)))
  environment = os.environ | {"PYTHONPATH": str(tmp_path)}
  for words in (
    ["dlrm_jax.train", "--preset=tiny", "--num_examples=4096", "--eval_examples=1024", f"--workdir={tmp_path}/run"],
    ["analysis.fit", f"--input={tmp_path}/points.csv", "--x=x", "--y=y", f"--output={tmp_path}/fit.json"],
    ["analysis.optimum", "--help"],
    ["benchmarks.accelerator", "--help"],
    ["sweeps.plan", "--help"],
  ):
    done = subprocess.run([sys.executable, "-m", *words], env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_other_errors_keep_their_traceback(capsys):
  for error in (ValueError("no"), ModuleNotFoundError("No module named 'numpy'", name="numpy")):
    try:
      raise error
    except Exception as raised:
      extras.hook(type(raised), raised, raised.__traceback__)
    assert "Traceback" in capsys.readouterr().err
