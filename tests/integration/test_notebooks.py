"""The example notebooks run as they are, judged by nbval."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hyper_kernel.jupyter import kernelspec

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_notebook_runs_in_a_sandbox(path, home, tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    kernelspec.install()
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--nbval-lax",
        "--rootdir",
        str(tmp_path),
    ]
    command += ["--nbval-kernel-name", "hyper-python", "--nbval-cell-timeout", "200", str(path)]
    command += ["--nbval-kernel-startup-timeout", "200"]
    done = subprocess.run(command, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
