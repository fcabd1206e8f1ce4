"""Cells in real kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kernels import Cell, Execute

DRIVER = Path(__file__).with_name("kernel_driver.py")


@pytest.fixture
def execute(own_store: Path, tmp_path: Path) -> Execute:
    """Executes sources, or the notebook of that path, in a kernel with the test's store."""

    def run(given: Any) -> list[Cell]:
        environment = {
            **os.environ,
            "PENSTOCK_HOME": str(own_store),
            "IPYTHONDIR": str(tmp_path / "ipython"),
            "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
            "JUPYTER_PREFER_ENV_PATH": "1",
        }
        done = subprocess.run(
            [sys.executable, str(DRIVER)],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
            cwd=tmp_path,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        return [Cell(**cell) for cell in json.loads(done.stdout)]

    return run
