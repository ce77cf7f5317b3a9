"""bin/guard extract: takes the direction from anchor texts and writes a guard folder."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from vlm_mu_jax.cli import cluster, guard_flags
from vlm_mu_jax.errors import InputError

if TYPE_CHECKING:
    from vlm_mu_jax.steering.extraction import ExtractOptions
    from vlm_mu_jax.steering.guard import Guard
    from vlm_mu_jax.storage.model_folder import Model

_METHOD = flags.DEFINE_enum(
    "method",
    None,
    [
        "vlm_guard",
        "vlm_guard_text",
        "vlm_guard_projection",
        "activation_addition",
        "directional_ablation",
        "cmrm",
        "shiftdc",
        "tbop",
        "alpha_steer",
        "ada_steer",
        "null_steer",
    ],
    "a published guard: its estimator and settings, except where flags say otherwise (see docs/guards.md)",
)
_RANK = flags.DEFINE_integer("rank", 1, "rows of the direction's subspace", lower_bound=1)
_ESTIMATOR = flags.DEFINE_enum(
    "estimator",
    "svd",
    ["svd", "means", "pca", "lda", "probe", "image_shift", "lost_refusal", "null_space"],
    "how the direction is taken from the anchors' states: uncentred SVD of paired differences, ...; see docs/guards.md",
)
LLM = flags.DEFINE_string(
    "llm",
    None,
    "model folder whose language tower the direction comes from (default: its own); diagnose compares the two",
)
_POSITION = flags.DEFINE_integer("position", -1, "prompt token the direction is read from, -1 the last", upper_bound=-1)
_LOCATION = flags.DEFINE_enum(
    "location", "output", ["output", "input"], "--layers counts block outputs, or block inputs (of 5: the output of 4)"
)
_BENIGN = flags.DEFINE_string(
    "benign", None, "data file whose questions the gate must stay closed on: what the model is asked every day"
)
_BENIGN_TEXTS = flags.DEFINE_integer("benign_texts", 200, "at most this many of them, drawn by seed 0", lower_bound=2)
_OPERATOR = flags.DEFINE_enum(
    "operator",
    "amplify",
    ["amplify", "add", "transplant", "project_out", "reflect", "ablate"],
    "what is done along the direction",
)
_COMPONENT = flags.DEFINE_enum(
    "component",
    "token",
    ["token", "self", "text"],
    "amplify and transplant: whose component is added, each token's own or the last token's of the prompt or its text",
)
_STRENGTH = flags.DEFINE_float("strength", None, "alpha of amplify, add, transplant (default 2; transplant 1)")
_UNIT = flags.DEFINE_enum(
    "unit", "gap", ["gap", "norm"], "add: strength 1 is the distance of the class means, or the residual stream's norm"
)
_LAYERS = flags.DEFINE_string("layers", "middle", "middle (third), all, last, 4-9 or 3,5,7; 0-based")
_GATE = flags.DEFINE_enum(
    "gate",
    "midpoint",
    ["midpoint", "midpoint_blank", "calibrated", "zero", "none", "linear"],
    "when to act: threshold on the last prompt token's projection",
)
_GATE_LAYERS = flags.DEFINE_string(
    "gate_layers",
    None,
    "with --decide=example: the layers that vote; of ada_steer: those that are read (default: the steered ones)",
)
_DECIDE = flags.DEFINE_enum(
    "decide", "layer", ["layer", "example"], "every layer's gate for itself, or one vote per example (a second prefill)"
)
_SOURCE = flags.DEFINE_enum(
    "gate_source",
    "self",
    ["self", "text"],
    "with --decide=example: the vote reads the prompt as it is, or its text alone (an image blurs the direction)",
)
_SCOPE = flags.DEFINE_enum(
    "scope",
    "prompt",
    ["prompt", "last", "text", "image", "generated", "all"],
    "positions steered: the prompt, its last token, its text, its image tokens; the answer; prompt and answer",
)
_FPR = flags.DEFINE_float("fpr", 0.05, "share of harmless anchors that the calibrated gate may let act", 0.0, 0.99)
_NORM = flags.DEFINE_bool("norm_preserving", False, "rescale steered states to their norm before steering")
_HIDE = flags.DEFINE_bool(
    "hide_image",
    False,
    "where the guard acts, the answer's tokens do not read the image; select tries both",
)
_ERASED = flags.DEFINE_integer(
    "erased_words",
    0,
    "with --gate_source=text: the gate also reads the text without its first word, ... without its first so many",
    lower_bound=0,
)

NEEDS = (guard_flags.ANCHORS,)
_USING = (_OPERATOR, _COMPONENT, _STRENGTH, _UNIT, _GATE, _DECIDE, _SOURCE, _SCOPE, _FPR, _NORM, _HIDE, _ERASED)


def job_from_flags() -> Callable[["Model"], None]:
    """What is done with the model; the flags and the files that they name are read and checked now."""
    from vlm_mu_jax.files.folders import check_replaceable
    from vlm_mu_jax.parallel.distributed import first
    from vlm_mu_jax.steering.guard_folder import META

    out, options = guard_flags.OUT.value, options_from_flags()
    check_replaceable(out, META)
    make_guard = _extraction(guard_flags.ANCHORS.value, options)

    def run(model: "Model") -> None:
        guard = make_guard(model)
        if first():
            guard.save(out)
            print(guard.describe())
            print(f"written to {out}")

    return run


def _extraction(anchors_file: str | Path, options: "ExtractOptions") -> Callable[["Model"], "Guard"]:
    """What extracts a guard from a model. The anchors are read now: a bad file is told before the model loads."""
    from vlm_mu_jax.steering.anchor_texts import load_anchors
    from vlm_mu_jax.steering.extraction import extract_guard

    return functools.partial(extract_guard, anchors=load_anchors(anchors_file), options=options, progress=cluster.bar())


def guard_or_extraction_from_flags() -> Callable[["Model"], "Guard"]:
    """What gives the guard of a model: that of --guard, or one from --anchors or the data folder's anchors.json."""
    options = options_from_flags()
    if guard_flags.GUARD.value:
        return guard_flags.guard_from_flags()
    anchors = Path(guard_flags.ANCHORS.value or guard_flags.data_folder_from_flags() / "anchors.json")
    if not anchors.is_file():
        raise InputError(f"{anchors}: no such file; give --guard or --anchors")
    return _extraction(anchors, options)


def _everyday(file: str, most: int) -> list[str]:
    """Everyday questions of a file; of longer conversations the first one, which is said."""
    from vlm_mu_jax.data import readers
    from vlm_mu_jax.steering.extraction import everyday_questions

    records = readers.read(file)
    longer = sum(len(record.turns) > 2 for record in records)
    if longer:
        print(f"--benign={file}: of {longer} conversations with several questions, the first one is taken")
    return everyday_questions(records, most)


def options_from_flags() -> "ExtractOptions":
    """The extraction's options from the flags, checked against the model's configuration."""
    from vlm_mu_jax.steering.extraction import ExtractOptions
    from vlm_mu_jax.storage import model_folder

    options = ExtractOptions(
        method=_METHOD.value,
        estimator=_ESTIMATOR.value if _ESTIMATOR.present else None,
        rank=_RANK.value,
        position=_POSITION.value,
        llm=model_folder.find(LLM.value) if LLM.value else None,
        benign=_everyday(_BENIGN.value, _BENIGN_TEXTS.value) if _BENIGN.value else (),
        blank=guard_flags.BLANK.value,
        layers=_LAYERS.value,
        location=_LOCATION.value,
        gate_layers=_GATE_LAYERS.value,
        using={flag.name: flag.value for flag in _USING if flag.present},
        batch_size=guard_flags.BATCH.value,
    )
    options.resolve(model_folder.read_config(model_folder.find(guard_flags.CHECKPOINT.value)).text.L)
    return options
