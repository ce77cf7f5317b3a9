"""JSON files, read with an error that names the file and written whole or not at all."""

import json
import math
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files import buckets
from vlm_mu_jax.files.outputs import complete_file


def read_json(path: str | Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
      InputError: the file is missing, no JSON, holds a number that is not finite, or something else than an object.
    """
    value = read_value(path)
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds a {type(value).__name__}, not a JSON object; restore the file")
    return value


def read_value(path: str | Path) -> Any:
    """Any JSON value from a file. InputError when it is missing, no JSON, or holds a number that is not finite."""
    path = Path(path).expanduser()
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: missing; is {path.parent} a complete folder?") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); restore the file") from error


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
      ValueError: it is no JSON, is nested too deeply, or holds what cannot be written again: a number that is not
        finite, half a surrogate pair.
    """
    try:
        value = json.loads(text, parse_constant=_finite, parse_float=_finite)
        if "\\ud" in text.lower():  # json.loads takes half a pair, which no file in UTF-8 can hold
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _finite(text: str) -> float:
    """A number of the file. NaN and infinity are no JSON, and could not be written again."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"it holds the number {text[:20]}")
    return number


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` to `path`, which appears when it is complete; a missing parent folder is made.

    Raises:
      InputError: the path cannot be written.
      ValueError: the value holds a number that is not finite.
    """
    with complete_file(path) as partial:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        partial.write_text(buckets.named(text) + "\n", encoding="utf-8")
