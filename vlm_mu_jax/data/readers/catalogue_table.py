"""The table of public data sets: which lie on this disk, how many questions they hold, where each comes from."""

from collections.abc import Sequence
from pathlib import Path

from vlm_mu_jax.data.readers import catalogue
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.progress import Progress

_SHOWN = 5  # missing images named per set, unless the set was named
_WIDTH = 160  # columns where there is no terminal


def text(data_root: str | Path | None, named: Sequence[str] = (), progress: Progress | None = None) -> str:
    """The table and what is wrong with each set, as `bin/eval --list` prints them.

    Args:
      data_root: folder with one folder per set.
      named: only these sets, with every missing image. None named: all sets, with the first few.
      progress: shows progress over the sets; None is silent.

    Raises:
      InputError: no data root.
    """
    if not data_root:
        raise InputError("--list needs --data_root, the folder that holds the public sets (it may be empty)")
    chosen = [one for name, one in catalogue.all_sets().items() if not named or name in named]
    items = progress(chosen, "data sets", len(chosen)) if progress else chosen
    found = [catalogue.status(one, data_root) for one in items]
    lines = []
    for task in ("safety", "utility"):
        own = [one for one in found if one.dataset.task == task]
        if own:
            lines.append(_table(task, own))
    if not all(one.confirmed for one in chosen):
        lines.append("*: upstream's own files were not at hand when the reader was written; see docs/datasets.md")
    lines += [line for one in found for line in catalogue.problems(one, None if named else _SHOWN)]
    ready = sum(one.state == "ready" for one in found)
    return "\n".join([*lines, f"{ready} of {len(found)} sets are ready under {data_root}"])


def _table(task: str, found: Sequence[catalogue.Status]) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    table = Table(title=f"{task} sets", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("set", "state", "questions", "folder", "from"):
        table.add_column(column, no_wrap=column in ("set", "state"))
    for one in found:
        count = f"{one.count or '-'} of {one.dataset.count or 'unknown'}"
        mark = "" if one.dataset.confirmed else " *"
        table.add_row(one.dataset.name, one.state, count, f"{one.dataset.folder}/", one.dataset.at + mark)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip("\n")
