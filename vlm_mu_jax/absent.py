"""Packages that are installed but passed over as if they were not: importing them is slow and of no use."""

import contextlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


@contextlib.contextmanager
def absent(package: str) -> Iterator[None]:
    """Inside, importing the package fails as if it were not installed. One that was imported before stays."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None
    try:
        yield
    finally:
        del sys.modules[package]


def import_transformers_without_torch() -> None:
    """From now on, whoever imports transformers first gets it as it is where PyTorch is not installed.

    transformers imports PyTorch wherever it is installed: a second and 200 MB at the start of every command, none of
    which runs PyTorch. Other modules may still import it. Nothing happens where either is imported already.
    """
    if "transformers" not in sys.modules and "torch" not in sys.modules:
        sys.meta_path.insert(0, _Transformers())


class _Transformers(MetaPathFinder):
    """Finds transformers as Python does, and hides PyTorch while it is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "transformers":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None:
            execute = spec.loader.exec_module

            def without_torch(module: ModuleType) -> None:
                with absent("torch"):
                    execute(module)
                    sys.modules["transformers.utils.import_utils"].is_torch_available()  # it remembers the answer

            spec.loader.exec_module = without_torch
        return spec
