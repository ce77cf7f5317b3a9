"""`vlm-mu COMMAND ...`: the console command of an installed package. The same commands are `bin/COMMAND` in a checkout.

Each command is a module of this folder that ends in `command.run(main, __doc__)`. Listing them reads their docstrings
and imports none, so `vlm-mu --help` answers at once.
"""

import ast
import difflib
import os
import runpy
import sys
from pathlib import Path

from vlm_mu_jax import __version__

COMMANDS = (
    "quickstart",
    "miniature",
    "convert_hf",
    "audit",
    "curate",
    "train",
    "plan",
    "relearn",
    "compare",
    "attack",
    "guard",
    "defences",
    "eval",
    "holds",
    "judge",
    "report",
    "generate",
    "serve",
    "bench",
)


def main() -> None:
    """Runs the command that the first argument names; exit code 2 for a wrong name."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h", "help"):
        print(overview())
    elif name in ("--version", "version"):
        print(f"vlm_mu_jax {__version__}")
    elif name.replace("-", "_") in COMMANDS:
        _run(name.replace("-", "_"), sys.argv[2:])
    else:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else "vlm-mu --help lists the commands"
        print(f"error: there is no command {name!r}; {hint}", file=sys.stderr)
        sys.exit(2)


def overview() -> str:
    """One line a command: its name and the first sentence of its docstring."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {_first_sentence(name)}" for name in COMMANDS]
    return "\n".join(
        [
            "Audits, attacks, unlearns, guards and measures vision-language models.",
            "",
            "Usage: vlm-mu COMMAND [--flag=value ...]",
            "",
            *lines,
            "",
            "vlm-mu COMMAND --help shows a command's flags and a worked example.",
            "Example: vlm-mu quickstart --out=runs/quickstart",
        ]
    )


def _first_sentence(name: str) -> str:
    source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n\n")[0].replace("\n", " ")


def _run(name: str, arguments: list[str]) -> None:
    """Runs the module as a program, in this process."""
    os.environ["VLM_MU_PROGRAM"] = "vlm-mu"  # how the command calls itself, and other commands, in what it prints
    sys.argv[1:] = arguments
    runpy.run_module(f"vlm_mu_jax.cli.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
