"""What is installed and passed over: commands import transformers without PyTorch, and nobody else loses it."""

import subprocess
import sys

import pytest

from vlm_mu_jax.absent import absent, import_transformers_without_torch

COMMAND = """
import sys
from importlib.util import find_spec
from vlm_mu_jax.absent import import_transformers_without_torch
import_transformers_without_torch()
from transformers import AutoTokenizer, is_torch_available
assert not is_torch_available() and "torch" not in sys.modules and find_spec("torch")
assert not any(type(finder).__name__ == "_Transformers" for finder in sys.meta_path)
"""


def test_transformers_is_imported_as_where_pytorch_is_not_installed():
    subprocess.run([sys.executable, "-c", COMMAND], check=True, timeout=300)


def test_what_is_imported_already_stays():
    finders = [*sys.meta_path]
    with absent("pytest"):
        assert sys.modules["pytest"] is pytest
        import_transformers_without_torch()
    assert "transformers" not in sys.modules or sys.meta_path == finders
    sys.meta_path[:] = finders


def test_an_absent_package_cannot_be_imported_inside():
    with absent("antigravity"), pytest.raises(ImportError):
        import antigravity  # noqa: F401
    assert "antigravity" not in sys.modules
