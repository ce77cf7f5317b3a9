"""What the actions of bin/guard share: flags, and what is read from them."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from vlm_mu_jax.cli import cluster, judge_flags, shared_flags

if TYPE_CHECKING:
    from vlm_mu_jax.data.records import Records
    from vlm_mu_jax.evaluation.judges import Judge
    from vlm_mu_jax.steering.guard import Guard
    from vlm_mu_jax.storage.model_folder import Model

flags.adopt_module_key_flags(judge_flags)
CHECKPOINT = shared_flags.checkpoint()
OUT = flags.DEFINE_string(
    "out",
    None,
    "what to write: a guard folder (extract, select), answers (apply), JSON (diagnose), a Hugging Face model (bake), a"
    " file for other programs (export)",
    required=True,
)
ANCHORS = flags.DEFINE_string(
    "anchors",
    None,
    'anchor pairs, [{"harmful": text, "harmless": text}]; in diagnose and select anchors.json of --data',
)
GUARD = flags.DEFINE_string("guard", None, "guard folder; without it select and diagnose extract one from the anchors")
DATA = flags.DEFINE_string("data", None, "request file, or a folder with text_harm.json (select, apply, diagnose)")
ALLOW = flags.DEFINE_bool("allow_other_model", False, "use a guard that was extracted from other weights")
BLANK = shared_flags.blank()
TOKENS = shared_flags.max_new_tokens(64)
BATCH = flags.DEFINE_integer("batch_size", 16, "prompts run at a time", lower_bound=1)


def data_folder_from_flags() -> Path:
    """The folder of the request file, where its anchors and its oracle lie."""
    from vlm_mu_jax.evaluation.guards.asking import request_file

    return request_file(DATA.value).parent


def requests_from_flags() -> "Records":
    """The unsafe and safe requests of --data. Raises InputError when there are none."""
    from vlm_mu_jax.evaluation.guards.asking import read_requests

    return read_requests(DATA.value)


def judge_from_flags() -> "Judge":
    """Who tells refusals. What a judging model says is kept apart for each process of a job."""
    out = cluster.own_file_from_flags(Path(OUT.value))
    return judge_flags.rater(judge_flags.options_from_flags(), data_folder_from_flags(), out)


def guard_from_flags() -> Callable[["Model"], "Guard"]:
    """What gives the guard in --guard to a model."""
    from vlm_mu_jax.steering import guard_folder
    from vlm_mu_jax.steering.guard import load_guard

    guard_folder.check(GUARD.value)
    return functools.partial(load_guard, GUARD.value, allow_other_model=ALLOW.value)
