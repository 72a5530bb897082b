"""The example notebooks run as they are, judged by nbval."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hyper_kernel.jupyter import kernelspec

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_notebook_runs(path, home, tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("HYPER_SANDBOXES", "3")  # in place of a hundred
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
    kernel = json.loads(path.read_text())["metadata"]["kernelspec"]["name"]
    command += ["--nbval-kernel-name", kernel, "--nbval-cell-timeout", "200", str(path)]
    command += ["--nbval-kernel-startup-timeout", "200"]
    done = subprocess.run(command, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
