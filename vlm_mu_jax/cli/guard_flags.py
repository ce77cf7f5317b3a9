"""What the actions of bin/guard share: flags, the requests and their judge, the blank image."""

import functools
from pathlib import Path

from absl import flags

from vlm_mu_jax.cli import judge_flags

flags.adopt_module_key_flags(judge_flags)
CHECKPOINT = flags.DEFINE_string("checkpoint", None, "model folder", required=True)
OUT = flags.DEFINE_string(
    "out",
    None,
    "what to write: a guard folder (extract, select), answers (apply), JSON (diagnose), a Hugging Face model (bake)",
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


def data_file() -> Path:
    path = Path(DATA.value)
    return path / "text_harm.json" if path.is_dir() else path


def requests():
    """The unsafe and safe requests of --data."""
    from vlm_mu_jax.data import readers
    from vlm_mu_jax.errors import InputError

    records = readers.read(data_file()).of_kind("unsafe", "safe")
    if not records:
        raise InputError(f"{data_file()}: holds neither unsafe nor safe requests; check the file")
    return records


@functools.cache
def judge():
    """Who tells refusals."""
    return judge_flags.rater(data_file().parent, OUT.value)


def blank(model):
    """Pixels of the blank image; None for a model without vision."""
    return None if model.config.vision is None else model.processor.blank_pixels(BLANK.value)
