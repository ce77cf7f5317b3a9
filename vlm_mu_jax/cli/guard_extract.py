"""bin/guard extract: takes the direction from anchor texts and writes a guard folder."""

from pathlib import Path

from absl import flags

from vlm_mu_jax.cli import guard_flags
from vlm_mu_jax.errors import InputError

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
        "null_steer",
    ],
    "a published guard: its estimator and settings, except where flags say otherwise (see docs/guards.md)",
)
_RANK = flags.DEFINE_integer("rank", 1, "rows of the direction's subspace", lower_bound=1)
_ESTIMATOR = flags.DEFINE_enum(
    "estimator",
    "svd",
    ["svd", "means", "pca", "lda", "probe", "image_shift", "null_space"],
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
    ["midpoint", "midpoint_blank", "calibrated", "zero", "none"],
    "when to act: threshold on the last prompt token's projection",
)
_GATE_LAYERS = flags.DEFINE_string(
    "gate_layers", None, "with --decide=example: the layers that vote (default: the steered ones)"
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

NEEDS = (guard_flags.ANCHORS,)


def check() -> None:
    """What can be wrong before the model is loaded, which may take minutes."""
    from vlm_mu_jax.files.folders import check_replaceable
    from vlm_mu_jax.steering.anchors import load_anchors
    from vlm_mu_jax.steering.artifact import META

    check_settings()
    check_replaceable(guard_flags.OUT.value, META)
    load_anchors(guard_flags.ANCHORS.value)


def check_settings() -> None:
    if _STRENGTH.value is not None and _OPERATOR.value in ("project_out", "reflect", "ablate"):
        raise InputError(f"--operator={_OPERATOR.value} has a fixed strength; leave out --strength")


def run(model) -> None:
    guard = new_guard(model, guard_flags.ANCHORS.value)
    guard.save(guard_flags.OUT.value)
    print(describe(guard))
    print(f"written to {guard_flags.OUT.value}")


def new_guard(model, anchors: str | Path):
    """Extraction with the settings of the flags; checks them by building what they can build without a prompt."""
    from vlm_mu_jax import progress
    from vlm_mu_jax.steering.anchors import load_anchors
    from vlm_mu_jax.steering.extract import extract
    from vlm_mu_jax.steering.guard import Settings
    from vlm_mu_jax.storage import model_folder

    estimator, changes = _settings(model.config.text.L)
    Settings(**changes)  # a clash of flags is told before the states are read
    guard = extract(
        model,
        load_anchors(anchors),
        rank=_RANK.value,
        estimator=estimator,
        llm=model_folder.load(LLM.value) if LLM.value else None,
        position=_POSITION.value,
        blank_HWC=guard_flags.blank(model),
        benign=_benign(),
        batch_size=guard_flags.BATCH.value,
        progress=progress.bar,
    ).using(**changes)
    guard.threshold_L()
    if not guard.settings.needs_first_pass:
        guard.steer()
    return guard


def _benign() -> list[str]:
    import random

    from vlm_mu_jax.data import readers

    if not _BENIGN.value:
        return []
    questions = sorted({record.question for record in readers.read(_BENIGN.value) if record.kind != "unsafe"})
    if not questions:
        raise InputError(f"--benign={_BENIGN.value} holds no safe or general question; give another file")
    return random.Random(0).sample(questions, min(_BENIGN_TEXTS.value, len(questions)))


def _settings(L: int) -> tuple[str, dict]:
    """Estimator and settings: those of --method, then the flags given, then the flags' defaults."""
    from vlm_mu_jax.steering import methods
    from vlm_mu_jax.steering.operators import FIXED_STRENGTH

    estimator, named = methods.method(_METHOD.value) if _METHOD.value else (_ESTIMATOR.value, {})
    settings = {
        "operator": _OPERATOR,
        "component": _COMPONENT,
        "unit": _UNIT,
        "gate": _GATE,
        "decide": _DECIDE,
        "gate_source": _SOURCE,
        "scope": _SCOPE,
        "fpr": _FPR,
        "norm_preserving": _NORM,
    }
    given = {name: flag.value for name, flag in settings.items() if flag.present}
    changes = {name: flag.value for name, flag in settings.items()} | named | given
    operator = changes["operator"]
    if _STRENGTH.value is not None:
        changes["strength"] = _STRENGTH.value
    elif "strength" not in named:
        changes["strength"] = {"transplant": 1.0, **FIXED_STRENGTH}.get(operator, 2.0)
    if operator == "transplant" and changes["component"] == "token":
        changes["component"] = changes["gate_source"] if changes["decide"] == "example" else "text"
    changes["layers"] = _layers(_LAYERS.value, L)
    if _GATE_LAYERS.value:
        changes["gate_layers"] = _layers(_GATE_LAYERS.value, L)
    return (_ESTIMATOR.value if _ESTIMATOR.present else estimator), changes


def _layers(text: str, L: int) -> tuple[int, ...]:
    """Block outputs. The input of block l is the output of block l - 1."""
    from vlm_mu_jax.steering.operators import parse_layers

    layers = parse_layers(text, L)
    if _LOCATION.value == "output" or not text[0].isdigit():
        return layers
    if layers[0] == 0:
        raise InputError("the input of block 0 is the embedding, which tells nothing of the prompt; start at layer 1")
    return tuple(layer - 1 for layer in layers)


def guard_or_new(model):
    """The guard of --guard, or one from --anchors, or from the data folder's anchors.json."""
    from vlm_mu_jax.steering.guard import load_guard

    if guard_flags.GUARD.value:
        return load_guard(guard_flags.GUARD.value, model, guard_flags.ALLOW.value)
    anchors = Path(guard_flags.ANCHORS.value or guard_flags.data_file().parent / "anchors.json")
    if not anchors.is_file():
        raise InputError(f"{anchors}: no such file; give --guard or --anchors")
    return new_guard(model, anchors)


def describe(guard) -> str:
    """A line on the settings, one per gating layer on how its direction tells the anchors apart."""
    use, layers = guard.settings, ", ".join(map(str, guard.settings.layers))
    decided = f"decided per {use.decide}" + (" from the text alone" if use.gate_source == "text" else "")
    component = "" if use.component == "token" else f", component of the {use.component} prompt"
    lines = [
        f"{use.operator} {use.strength:g} at layers {layers}{component}, scope {use.scope}, gate {use.gate}, {decided}"
    ]
    threshold_L = guard.threshold_L()
    gap_L = guard.scores.harmful_LN.mean(1) - guard.scores.harmless_LN.mean(1)
    for layer in use.gate_layers or use.layers:
        row = guard.origin["auroc_anchors"][layer]
        lines.append(
            f"  layer {layer}: anchors apart by {gap_L[layer]:.3g}, threshold {threshold_L[layer]:.3g}, "
            f"AUROC {row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}] (in sample)"
        )
    return "\n".join(lines)
