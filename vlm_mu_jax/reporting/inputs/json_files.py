"""JSON files that other commands wrote. A bad one raises an InputError that names the file and the reason."""

import json
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError


def read_object(path: Path) -> dict[str, Any]:
    """One JSON object from a file; InputError when it is missing, not JSON or not an object."""
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path or run the command that writes it") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not readable as JSON ({_first_line(error)})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def read_results(path: Path) -> dict[str, Any]:
    """A results.json of schema 1; InputError says what is missing."""
    results = read_object(path)
    if results.get("schema") != 1:
        raise InputError(f"{path}: schema is {results.get('schema')!r}, this version reads schema 1")
    if not isinstance(results.get("runs"), list) or not all(isinstance(run, dict) for run in results["runs"]):
        raise InputError(f"{path}: field 'runs' must be a list of objects")
    for run in results["runs"]:
        if not isinstance(run.get("name"), str) or not isinstance(run.get("metrics"), dict):
            raise InputError(f"{path}: every run needs 'name' (text) and 'metrics' (object)")
    return results


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file; InputError names the line that is not one."""
    rows = []
    with path.open(encoding="utf-8", errors="replace") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                if not line.endswith("\n"):  # a torn last line is what a kill leaves behind
                    break
                raise InputError(f"{path}:{number}: not JSON ({_first_line(error)})") from None
            if not isinstance(row, dict):
                raise InputError(f"{path}:{number}: expected a JSON object")
            rows.append(row)
    return rows


def read_rows(path: Path, name: str) -> dict[str, Any]:
    """A JSON object whose field `name` is a list of objects; InputError when it is not."""
    value = read_object(path)
    rows = value.get(name)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: field {name!r} must be a list of objects; is it the right file?")
    return value


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
