"""Questions that the processes of one job answer together: each its share, and process 0 puts the answers together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from vlm_mu_jax.evaluation.answers.share import Share
from vlm_mu_jax.files import buckets
from vlm_mu_jax.parallel.distributed import first
from vlm_mu_jax.parallel.meeting import meet


def answer_together(
    out: Path,
    folder: Path,
    answer: Callable[[Share], Any],
    collect: Callable[[], None],
    tell: Callable[[str], None] | None = None,
) -> Any:
    """What `answer` returns, in every process of a job; they call this together. Process 0 has collected then, and has
    begun with what earlier jobs, of any number of processes, have answered.

    Args:
      out: the file or folder of all answers. folder: where the shares are.
      answer: answers what `out` lacks of a share, into the folder of the shares.
      collect: puts the answers of all shares that there are into `out`.
      tell: gets a line about a process that is waited for.

    Raises:
      JobError: a process is gone.
    """
    if first():
        collect()
        buckets.send()
    meet("start", tell=tell)
    if not first():
        buckets.refresh(out)
    made = answer(Share(jax.process_index(), jax.process_count()))
    buckets.send()
    meet("answers", tell=tell)
    if first():
        buckets.refresh(folder)
        collect()
    return made
