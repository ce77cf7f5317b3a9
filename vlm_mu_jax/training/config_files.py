"""Config files by name: `miniature_unlearn:npo` is the file miniature_unlearn.py, called with the argument npo.

A name is resolved as a path, then in the folder ./configs, then among the configs that come with the package.
"""

import difflib
import importlib.util
from pathlib import Path

import ml_collections

from vlm_mu_jax.errors import InputError

_PACKAGE = Path(__file__).resolve().parents[1]
_SHIPPED = (_PACKAGE / "configs", _PACKAGE.parent / "configs")  # in a wheel, in a checkout


def config_files() -> dict[str, Path]:
    """The config files that can be called by name, ./configs before those of the package."""
    files: dict[str, Path] = {}
    for folder in (Path("configs"), *_SHIPPED):
        files = {path.stem: path for path in sorted(folder.glob("*.py"))} | files
    files.pop("__init__", None)
    return files


def find_config(name: str) -> str:
    """PATH or PATH:ARGUMENT of a config that is given as one of these or by name.

    Example: `find_config("llava15_unlearn:7b_npo")` is ".../configs/llava15_unlearn.py:7b_npo".

    Raises:
      InputError: there is no such file; a name that is close to one is suggested.
    """
    file, colon, argument = name.partition(":")
    if Path(file).is_file():
        return name
    known = config_files()
    path = Path(file)
    by_name = path.parent in (Path("."), Path("configs"))  # also "configs/NAME.py" outside of a checkout
    if by_name and path.suffix in ("", ".py") and path.stem in known:
        return f"{known[path.stem]}{colon}{argument}"
    near = difflib.get_close_matches(path.stem, known, n=1)
    advice = f"did you mean {near[0]}{colon}{argument}?" if near else f"use one of {', '.join(known)}, or a path"
    raise InputError(f"there is no config file {file}; {advice}")


def load_config(name: str) -> ml_collections.ConfigDict:
    """The config of a path or name, as its get_config() returns it.

    Raises:
      InputError: there is no such file, or it is no config file, or it does not know the argument.
    """
    file, _, argument = find_config(name).partition(":")
    spec = importlib.util.spec_from_file_location("vlm_mu_jax_config", file)
    if spec is None or spec.loader is None:
        raise InputError(f"{file}: no Python file with get_config(); see configs/ for examples")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise InputError(f"{file}: has no get_config(); see configs/ for examples")
    return module.get_config(argument) if argument else module.get_config()
