"""The tables of docs/formats.md, made from the declarations."""

import types
import typing
from collections.abc import Iterator

from vlm_mu_jax.formats.answers import AnswerLine
from vlm_mu_jax.formats.attack import AttackFile, MethodsFile
from vlm_mu_jax.formats.audit import AuditFile
from vlm_mu_jax.formats.guards import DefencesFile, DiagnosticsFile
from vlm_mu_jax.formats.provenance import ProvenanceFile
from vlm_mu_jax.formats.results import ResultsFile
from vlm_mu_jax.formats.stress import HoldsFile
from vlm_mu_jax.formats.training import RelearningFile, StepLine, SweepFile

FORMATS = {
    "results.json": ResultsFile,
    "answers/*.jsonl": AnswerLine,
    "attack.json, one word": AttackFile,
    "attack.json, other methods": MethodsFile,
    "audit.json": AuditFile,
    "diagnostics.json": DiagnosticsFile,
    "defences.json": DefencesFile,
    "holds.json": HoldsFile,
    "relearn.json": RelearningFile,
    "sweep.json": SweepFile,
    "metrics.jsonl": StepLine,
    "provenance.json": ProvenanceFile,
}
HEAD = """# File formats

Commands hand their results to each other as JSON files, and other programs may read and write them. This page lists the
fields that a reader of ours looks at. It is made from the declarations in `vlm_mu_jax/formats/`:

    python -m vlm_mu_jax.formats.page > docs/formats.md

Three rules hold for every file:

- Numbers are finite. NaN and infinity are not JSON; a file that holds one is refused.
- Unknown fields are kept and passed on. A known field of another type is refused, in one line that names it.
- `schema` is the version, 1 today. Files of a later version are refused.
"""


def markdown() -> str:
    """A section for each format, with a table for it and for every kind of object inside that has not had one."""
    parts, shown = [HEAD], set()
    for heading, kind in FORMATS.items():
        parts.append(f"## {heading}\n\n{_text(kind)}\n\n{_table(kind)}\n")
        for inner in _inner(kind):
            if inner not in shown:
                shown.add(inner)
                parts.append(f"### {inner.__name__}\n\n{_text(inner)}\n\n{_table(inner)}\n")
    return "\n".join(parts)


def _text(kind: type) -> str:
    return (kind.__doc__ or "").strip()


def _table(kind: type) -> str:
    lines = ["| field | type | meaning |", "|---|---|---|"]
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        required = typing.get_origin(hint) is typing.Required
        hint = typing.get_args(hint)[0] if required else hint
        meaning = next((meta.description for meta in getattr(hint, "__metadata__", ())[::-1]), "")
        star = " (required)" if required else ""
        lines.append(f"| `{name}`{star} | {_name(hint)} | {meaning} |")
    return "\n".join(lines)


def _name(hint: object) -> str:
    """A type in words: "list of FoundWord, or null"."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Annotated, typing.Required):
        return _name(inside[0])
    if origin in (types.UnionType, typing.Union):
        names = list(dict.fromkeys(_name(one) for one in inside if one is not types.NoneType))
        return " or ".join(names) + (", or null" if types.NoneType in inside else "")
    if origin is tuple:
        return f"[{', '.join(map(_name, inside))}]"
    if origin is list:
        return f"list of {_name(inside[0])}"
    if origin is not None:
        return f"object: {_name(inside[0])} → {_name(inside[1])}"
    if typing.is_typeddict(hint):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    return {str: "text", int: "integer", float: "number", bool: "true or false", typing.Any: "anything"}[hint]


def _inner(hint: object) -> Iterator[type]:
    """The kinds of objects inside a type, in the order in which they come."""
    if typing.is_typeddict(hint):
        for field in typing.get_type_hints(hint, include_extras=True).values():
            for kind in _kinds(field):
                yield kind
                yield from _inner(kind)


def _kinds(hint: object) -> Iterator[type]:
    if typing.is_typeddict(hint):
        yield hint
    for inside in typing.get_args(hint):
        if isinstance(inside, type) or typing.get_args(inside):
            yield from _kinds(inside)


if __name__ == "__main__":
    print(markdown(), end="")
