"""Sweeps with their reports, which tests of several files read and none changes."""

from pathlib import Path

import pytest
from report_sweeps import write_planted, write_real


def _reported(root: Path) -> Path:
  from analysis.report import program  # only now: jaxtyping's hook is in place

  program.main(program.ReportConfig(workdir=str(root)))
  return root


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """`write_planted` with a report in `report`."""
  return _reported(write_planted(tmp_path_factory.mktemp("planted")))


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """`write_real` with a report in `report`."""
  return _reported(write_real(tmp_path_factory.mktemp("real")))
