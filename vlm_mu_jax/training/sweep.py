"""A grid of runs: every combination of some values of a config."""

import copy
import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import ml_collections

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.training import settings as settings_lib


@dataclasses.dataclass(frozen=True)
class Point:
    """One run of a sweep. name: of its folder. values: config path -> value. settings: the whole config."""

    name: str
    values: dict[str, Any]
    settings: dict[str, Any]


def points(settings: Mapping[str, Any]) -> list[Point]:
    """The runs of `settings["sweep"]`, a sequence of (path, values) such as ("objective.beta", (0.5, 1.0)); the last
    path varies fastest.

    Raises:
      InputError: the sweep is malformed, or a path or value does not fit the config.
    """
    axes = list(settings["sweep"])
    for axis in axes:
        fits = isinstance(axis, tuple | list) and len(axis) == 2 and isinstance(axis[0], str)
        if not fits or not isinstance(axis[1], tuple | list) or not axis[1]:
            raise InputError(f"config.sweep: {axis!r} is no pair of a config path and its values")
    paths = [path for path, _ in axes]
    if len(set(paths)) < len(paths) or any(path.partition(".")[0] in ("sweep", "eval") for path in paths):
        raise InputError("config.sweep: a path stands twice, or is part of sweep or eval, which all points share")
    return [
        _point(settings, dict(zip(paths, chosen, strict=True))) for chosen in itertools.product(*(v for _, v in axes))
    ]


def _point(settings: Mapping[str, Any], values: dict[str, Any]) -> Point:
    changed = copy.deepcopy(dict(settings)) | {"sweep": ()}
    for path, value in values.items():
        *parents, key = path.split(".")
        node = changed
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or key not in node:
            raise InputError(f"config.sweep: config.{path} is no key")
        node[key] = value
    name = ",".join(f"{path.rpartition('.')[2]}={value}" for path, value in values.items())
    return Point(name.replace("/", "_"), values, settings_lib.checked(ml_collections.ConfigDict(changed)))
