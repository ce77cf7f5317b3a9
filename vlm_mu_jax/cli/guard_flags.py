"""What the actions of bin/guard share: flags, and what is read from them."""

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from vlm_mu_jax.cli import cluster, judge_flags

if TYPE_CHECKING:
    from vlm_mu_jax.data.records import Records
    from vlm_mu_jax.evaluation.judges import Judge

flags.adopt_module_key_flags(judge_flags)
CHECKPOINT = flags.DEFINE_string("checkpoint", None, "model folder", required=True)
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
BLANK = flags.DEFINE_enum("blank", "white", ["white", "black", "mean", "noise"], "kind of the blank image")
TOKENS = flags.DEFINE_integer("max_new_tokens", 64, "longest answer, in tokens", lower_bound=1)
BATCH = flags.DEFINE_integer("batch_size", 16, "prompts run at a time", lower_bound=1)


def data_folder() -> Path:
    """The folder of the request file, where its anchors and its oracle lie."""
    from vlm_mu_jax.evaluation.guards.asking import request_file

    return request_file(DATA.value).parent


def requests() -> "Records":
    """The unsafe and safe requests of --data. Raises InputError when there are none."""
    from vlm_mu_jax.evaluation.guards.asking import read_requests

    return read_requests(DATA.value)


def judge() -> "Judge":
    """Who tells refusals. What a judging model says is kept apart for each process of a job."""
    from vlm_mu_jax.parallel import distributed

    alone = cluster.COORDINATOR.value is None or distributed.first()
    return judge_flags.rater(data_folder(), OUT.value if alone else f"{OUT.value}.process{distributed.index()}")


def numbers(flag: flags.FlagHolder) -> list[float]:
    """The numbers of a list flag. Raises InputError, which names the flag, for anything else."""
    from vlm_mu_jax.errors import InputError

    try:
        return [float(text) for text in flag.value or ()]
    except ValueError:
        raise InputError(f"--{flag.name}={','.join(flag.value)}: give numbers separated by commas") from None
