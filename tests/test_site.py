"""The docs site builds without a warning: no dead link, no page outside the navigation, no name that is not there."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_site_builds_strictly_and_holds_the_reference(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    api = (tmp_path / "reference" / "api" / "index.html").read_text(encoding="utf-8")
    commands = (tmp_path / "reference" / "commands" / "index.html").read_text(encoding="utf-8")
    import vlm_mu_jax
    from vlm_mu_jax.cli.main import COMMANDS

    assert all(f"{module}.{name}" in api for name, module in vlm_mu_jax._EXPORTS.items())
    assert all(f'id="{name}"' in commands for name in COMMANDS)
