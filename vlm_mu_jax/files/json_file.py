"""JSON files, read with an error that names the file and written whole or not at all."""

import json
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.outputs import complete_file


def read_json(path: str | Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
      InputError: the file is missing, no JSON, or something else than an object.
    """
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
        if "\\ud" in text.lower():  # json.loads takes half a surrogate pair, which no file in UTF-8 can hold
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path}: missing; is {path.parent} a complete folder?") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); restore the file") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds a {type(value).__name__}, not a JSON object; restore the file")
    return value


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` to `path`, which appears when it is complete; a missing parent folder is made.

    Raises:
      InputError: the path cannot be written.
      ValueError: the value holds a number that is not finite.
    """
    with complete_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
