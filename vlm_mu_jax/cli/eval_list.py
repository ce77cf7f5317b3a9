"""Public data sets in bin/eval: which of them lie on this disk (--list), and asking them (--utility, --safety)."""

import sys
from collections.abc import Sequence

from absl import flags

LIST = flags.DEFINE_bool(
    "list", False, "print which public data sets are ready under --data_root and where each comes from; asks nothing"
)
DATA_ROOT = flags.DEFINE_string(
    "data_root", None, "folder with one folder per public data set, upstream's files in it (see docs/datasets.md)"
)
UTILITY = flags.DEFINE_list(
    "utility", [], "public utility sets to ask and score by their own rules, such as pope_random,scienceqa_img"
)
SAFETY = flags.DEFINE_list("safety", [], "public safety sets to ask, such as xstest,figstep")
_SHOWN = 5  # missing images named per set, unless the set was named


def needs_run() -> bool:
    """Whether the command line asks a model anything, so that --checkpoint and --workdir are required."""
    return not any(word in ("--list", "-list", "--list=true") for word in sys.argv[1:])


def needs_data() -> bool:
    """Whether --data is required: not for public sets alone."""
    return needs_run() and not any(word.lstrip("-").startswith(("utility", "safety")) for word in sys.argv[1:])


def names() -> list[str]:
    """The public sets asked for. Raises InputError for an unknown one, or without --data_root."""
    from vlm_mu_jax.evaluation.questions import public_sets

    return public_sets.checked(SAFETY.value, UTILITY.value, DATA_ROOT.value)


def print_sets(data_root: str | None, named: Sequence[str]) -> None:
    """The table of --list: all public sets, or the named ones with every missing image.

    Raises InputError without a data root.
    """
    from vlm_mu_jax import progress
    from vlm_mu_jax.data.readers import catalogue
    from vlm_mu_jax.errors import InputError

    if not data_root:
        raise InputError("--list needs --data_root, the folder that holds the public sets (it may be empty)")
    chosen = [one for name, one in catalogue.all_sets().items() if not named or name in named]
    found = [catalogue.status(one, data_root) for one in progress.bar(chosen, "data sets", len(chosen))]
    for task in ("safety", "utility"):
        own = [one for one in found if one.dataset.task == task]
        if own:
            _print_table(task, own)
    if not all(one.confirmed for one in chosen):
        print("*: upstream's own files were not at hand when the reader was written; see docs/datasets.md")
    for one in found:
        for line in catalogue.problems(one, None if named else _SHOWN):
            print(line)
    print(f"{sum(one.state == 'ready' for one in found)} of {len(found)} sets are ready under {data_root}")


def _print_table(task: str, found: list) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)  # a log file has no width of its own
    table = Table(title=f"{task} sets", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("set", "state", "questions", "folder", "from"):
        table.add_column(column, no_wrap=column in ("set", "state"))
    for one in found:
        count = f"{one.count or '-'} of {one.dataset.count or 'unknown'}"
        mark = "" if one.dataset.confirmed else " *"
        table.add_row(one.dataset.name, one.state, count, f"{one.dataset.folder}/", one.dataset.at + mark)
    console.print(table)
