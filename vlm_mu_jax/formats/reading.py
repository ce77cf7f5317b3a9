"""Reads a file of a declared format. A field of another type than the format says is one line that names it."""

from pathlib import Path
from typing import Any

import msgspec

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.json_file import parse_json, read_json

VERSION = 1  # of every format; files without a version are of this one


def read_file(path: str | Path, kind: type) -> dict[str, Any]:
    """The object of a JSON file, with all of its fields, also those that the format does not know.

    Args:
      kind: a TypedDict of this package.

    Raises:
      InputError: the file is missing or no JSON, is of a later version, or a field has another type (it is named).
    """
    value = read_json(path)
    if value.get("schema", VERSION) != VERSION:
        raise InputError(f"{path}: schema is {str(value['schema'])[:40]}, this version reads schema {VERSION}")
    check_value(value, kind, str(path))
    return value


def read_lines(path: str | Path, kind: type) -> list[dict[str, Any]]:
    """The objects of a JSON lines file. A last line that a kill cut off is left out.

    Raises:
      InputError: a line is no JSON object, or a field has another type than `kind` says; the line is named.
    """
    path, rows = Path(path), []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line.decode("utf-8", "replace"))
        except ValueError as error:
            if number == len(lines):
                break
            raise InputError(f"{path}:{number}: not JSON ({str(error)[:200]})") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
        check_value(row, kind, f"{path}:{number}")
        rows.append(row)
    return rows


def check_value(value: Any, kind: type, where: str) -> None:
    """InputError when `value` is not of the format `kind`. `where` opens the message."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at ")
        field = place.strip("`").removeprefix("$").removeprefix(".") or "the whole"
        raise InputError(f"{where}: {field}: {what[:1].lower()}{what[1:]}; is it the right file?") from None
