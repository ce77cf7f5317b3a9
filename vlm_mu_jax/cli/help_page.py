"""What --help prints: a command's own docstring and flags, with the flags of other subjects by name.

A command may borrow flags from modules that others use too, such as who judges answers. Each such module is a group,
shown in full by --help=GROUP, or for a command with sub-commands by `COMMAND SUB --help`. --help=all shows everything.
"""

import re
import sys
import textwrap
from collections.abc import Sequence

from absl import flags

WORDS = ("--help", "-help", "-h", "--helpfull", "--helpshort")
FEW = 40  # so many flags are shown without groups
_WIDTH = 96


def wanted(arguments: Sequence[str]) -> str | None:
    """What help a command line asks for: "" for the plain one, a group's name, or None for no help."""
    for word in arguments:
        if word in WORDS:
            return ""
        if word.startswith(("--help=", "-help=")):
            return word.partition("=")[2]
    return None


def text(doc: str, group: str, actions: Sequence[str] = ()) -> str:
    """The help of this command.

    Args:
      doc: its docstring.
      group: as `wanted` found it.
      actions: its sub-commands; the flags of one that stands on the command line are shown in full.
    """
    grouped = _groups()
    number = sum(map(len, grouped.values()))
    chosen = next((word for word in sys.argv[1:] if word in actions), "")
    shown = {"", group or chosen} if group != "all" and number > FEW else set(grouped)
    if group not in ("", "all", *grouped):
        names = ", ".join(f"--help={name}" for name in ("all", *grouped) if name)
        return f"there is no help about {group!r}; use --help, {names}"
    lines = [doc.strip(), ""] if not group or group == "all" else []
    for name, members in grouped.items():
        title = "Flags" if not name else f"Flags: {name}"
        if name in shown and not (group and group != "all" and name != group):
            lines += [f"{title}:", *(line for flag in members for line in _described(flag)), ""]
        elif name not in shown:
            names = textwrap.wrap(" ".join(f"--{flag.name}" for flag in members), _WIDTH, **_INDENT)
            lines += [f"{title} (--help={name} describes them):", *names, ""]
    return "\n".join(lines).rstrip()


_INDENT = {
    "initial_indent": "  ",
    "subsequent_indent": "  ",
    "break_on_hyphens": False,
    "break_long_words": False,
}


def _groups() -> dict[str, list[flags.Flag]]:
    """Flags by the module that defines them, the command's own first and under ""."""
    program = sys.argv[0]
    own: dict[str, flags.Flag] = {flag.name: flag for flag in flags.FLAGS.get_key_flags_for_module(program)}
    own["debug"] = flags.FLAGS["debug"]
    groups: dict[str, list[flags.Flag]] = {"": []}
    for flag in own.values():
        groups.setdefault(_group(flags.FLAGS.find_module_defining_flag(flag.name), program), []).append(flag)
    return groups


def _group(module: str, program: str) -> str:
    """The name of a module's group: `judge_flags` is "judge"."""
    command = re.sub(r"\W", "_", program.rpartition("/")[2].removesuffix(".py"))
    last = module.rpartition(".")[2]
    if "/" in module or module.endswith(".py") or last in ("command", command, f"{command}_flags", "__main__"):
        return ""
    return last.removeprefix(f"{command}_").removesuffix("_flags").removesuffix("_flag")


def _described(flag: flags.Flag) -> list[str]:
    default = ",".join(map(str, flag.default)) if isinstance(flag.default, list) else flag.default_as_str or ""
    default = default.strip("'")
    known = flag.default is not None and default not in ("", "None")
    if flag.boolean:
        head, note = f"--[no]{flag.name}" if flag.default else f"--{flag.name}", ""
    else:
        kind = flag.flag_type()
        head = f"--{flag.name}={'FILE' if kind == 'config object' else kind.split()[-1].upper()}"
        values = getattr(flag.parser, "enum_values", None)
        head = f"--{flag.name}={'|'.join(values)}" if values else head
        note = f" (default {default})" if known else ""
    # bounds are validators too; what absl says of a required flag is all that tells them apart
    if required(flag):
        note = " (required)"
    told = re.sub(r"^<[^>]*>: ", "", flag.help or "")  # absl puts an enum's values in front of its help
    told = re.sub(r";\s+repeat this option to specify a list of values$", "; may be repeated", told) + note
    return [f"  {head}", *textwrap.wrap(told, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)]


def required(flag: flags.Flag) -> bool:
    return any("other than None" in str(validator.message) for validator in flag.validators)
