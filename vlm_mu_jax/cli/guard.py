"""Guards a model at inference: steers it along a safety direction of its own language tower.

  extract   takes the direction from paired anchor texts and writes a guard folder
  select    tries settings of a guard on half of a request file, keeps the best within an over-refusal bound
  apply     answers a request file with the guard on, with the requests' own, a blank, or no image
  diagnose  measures what an image does to the model's states: PCA and AUROC, with and without image

A guard belongs to the weights it was extracted from and is refused on others (--allow_other_model overrules).
With --decide=example --gate_source=text the language model, asked the question alone, decides whether the guard acts.
Removing the direction (--operator=project_out) makes an aligned model *less* safe; it is offered for measurement.

Example:
  bin/guard extract --checkpoint=runs/base --anchors=runs/mini/data/anchors.json --out=runs/guard_raw \\
      --decide=example --gate_source=text
  bin/guard select --checkpoint=runs/base --guard=runs/guard_raw --data=runs/mini/data --out=runs/guard
  bin/guard apply --checkpoint=runs/base --guard=runs/guard --data=runs/mini/data --out=runs/guarded.jsonl
  bin/guard diagnose --checkpoint=runs/base --data=runs/mini/data --out=runs/diagnostics.json
"""

import dataclasses
from pathlib import Path

from absl import flags

from vlm_mu_jax.cli import command, output
from vlm_mu_jax.errors import InputError

ACTIONS = ("extract", "select", "apply", "diagnose")

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "model folder", required=True)
_OUT = flags.DEFINE_string(
    "out", None, "what to write: a guard folder (extract, select), answers (apply), JSON (diagnose)", required=True
)
_ANCHORS = flags.DEFINE_string(
    "anchors",
    None,
    'anchor pairs, [{"harmful": text, "harmless": text}]; in diagnose and select anchors.json of --data',
)
_GUARD = flags.DEFINE_string("guard", None, "guard folder; select and diagnose extract one from the anchors without it")
_DATA = flags.DEFINE_string("data", None, "request file, or a folder with text_harm.json (select, apply, diagnose)")
_RANK = flags.DEFINE_integer("rank", 1, "rows of the direction's subspace", lower_bound=1)
_ESTIMATOR = flags.DEFINE_enum(
    "estimator", "svd", ["svd", "means"], "uncentred SVD of paired differences, or the difference of means"
)
_OPERATOR = flags.DEFINE_enum(
    "operator", "amplify", ["amplify", "add", "project_out", "reflect"], "what is done along the direction"
)
_STRENGTH = flags.DEFINE_float("strength", None, "alpha of amplify and add; 2 without it")
_LAYERS = flags.DEFINE_string("layers", "middle", "middle (third), all, 4-9 or 3,5,7; 0-based")
_GATE_KINDS = ["midpoint", "midpoint_blank", "calibrated", "zero", "none"]
_GATE = flags.DEFINE_enum(
    "gate", "midpoint", _GATE_KINDS, "when to act: threshold on the last prompt token's projection"
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
    "scope", "prompt", ["prompt", "last", "all"], "positions steered: the prompt, its last token, or prompt and answer"
)
_FPR = flags.DEFINE_float("fpr", 0.05, "share of harmless anchors that the calibrated gate may let act", 0.0, 0.99)
_NORM = flags.DEFINE_bool("norm_preserving", False, "rescale steered states to their norm before steering")
_ALLOW = flags.DEFINE_bool("allow_other_model", False, "use a guard that was extracted from other weights")
_BLANK = flags.DEFINE_enum("blank", "white", ["white", "black", "mean", "noise"], "kind of the blank image")
_IMAGE = flags.DEFINE_multi_enum(
    "image", ["blank"], ["own", "blank", "none"], "apply: image of every question; may be given several times"
)
_JUDGE = flags.DEFINE_enum(
    "judge", None, ["oracle", "keyword"], "who tells refusals (default: oracle if the data have one)"
)
_TOKENS = flags.DEFINE_integer("max_new_tokens", 64, "longest answer, in tokens", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 16, "prompts run at a time", lower_bound=1)
_LIMIT = flags.DEFINE_integer("max_questions", None, "select: at most this many requests of each kind", lower_bound=1)
_SHARE = flags.DEFINE_float(
    "validation_share", 0.5, "select: share of the requests, drawn by id, that the choice may see", 0.01, 1.0
)
_OPERATORS = flags.DEFINE_list("operators", ["amplify", "add"], "select: operators to try")
_STRENGTHS = flags.DEFINE_list("strengths", ["0.5", "1", "2", "4"], "select: strengths to try")
_LAYER_SETS = flags.DEFINE_string(
    "layer_sets",
    None,
    "select: layer sets to try, separated by semicolons (default: the middle third, its last two, its centre)",
)
_GATES = flags.DEFINE_list(
    "gates", None, "select: gates to try (default: midpoint_blank if the gate sees the image, else midpoint)"
)
_SCOPES = flags.DEFINE_list("scopes", None, "select: scopes to try (default: the guard's own)")
_BOUND = flags.DEFINE_float(
    "max_over_refusal", 0.05, "select: refusals of harmless requests that are accepted", 0.0, 1.0
)
_LAYER = flags.DEFINE_integer("layer", None, "diagnose: layer of the PCA; the middle one without it", lower_bound=0)


def main(argv: list[str]) -> None:
    from vlm_mu_jax import model_folder

    action = argv[1]
    _check_flags(action)
    command.enable_compilation_cache()
    model = model_folder.load(_CHECKPOINT.value)
    {"extract": _extract, "select": _select, "apply": _apply, "diagnose": _diagnose}[action](model)


def _check_flags(action: str) -> None:
    """Everything that can be wrong before the model is loaded, which may take minutes."""
    from vlm_mu_jax.folders import check_replaceable
    from vlm_mu_jax.steering.anchors import load_anchors
    from vlm_mu_jax.steering.artifact import META

    needed = {"extract": [_ANCHORS], "select": [_DATA], "apply": [_DATA, _GUARD], "diagnose": [_DATA]}[action]
    for flag in needed:
        if not flag.value:
            raise InputError(f"bin/guard {action} needs --{flag.name}; see bin/guard --help")
    if _STRENGTH.value is not None and _OPERATOR.value in ("project_out", "reflect"):
        raise InputError(f"--operator={_OPERATOR.value} has a fixed strength; leave out --strength")
    if action in ("extract", "select"):
        check_replaceable(_OUT.value, META)
    else:
        output.check_writable(_OUT.value)
    if action == "extract":
        load_anchors(_ANCHORS.value)
    else:
        _requests()


def _extract(model) -> None:
    guard = _new_guard(model, _ANCHORS.value)
    guard.save(_OUT.value)
    print(_describe(guard))
    print(f"written to {_OUT.value}")


def _new_guard(model, anchors: str | Path):
    """Extraction with the settings of the flags; checks them by building the steering once."""
    from vlm_mu_jax.cli import progress
    from vlm_mu_jax.steering import guard as guards
    from vlm_mu_jax.steering.anchors import load_anchors
    from vlm_mu_jax.steering.operators import FIXED_STRENGTH, parse_layers

    layers = parse_layers(_LAYERS.value, model.config.text.L)
    guard = guards.extract(
        model,
        load_anchors(anchors),
        rank=_RANK.value,
        estimator=_ESTIMATOR.value,
        blank_HWC=_blank(model),
        batch_size=_BATCH.value,
        progress=progress.bar,
    )
    strength = 2.0 if _STRENGTH.value is None else _STRENGTH.value
    guard = guard.using(
        operator=_OPERATOR.value,
        strength=FIXED_STRENGTH.get(_OPERATOR.value, strength),
        layers=layers,
        gate=_GATE.value,
        decide=_DECIDE.value,
        fpr=_FPR.value,
        norm_preserving=_NORM.value,
        gate_source=_SOURCE.value,
        scope=_SCOPE.value,
    )
    guard.threshold_L()
    return guard


def _guard_or_new(model):
    """The guard of --guard, or one from --anchors, or from the data folder's anchors.json."""
    from vlm_mu_jax.steering.guard import load_guard

    if _GUARD.value:
        return load_guard(_GUARD.value, model, _ALLOW.value)
    anchors = Path(_ANCHORS.value or _data_file().parent / "anchors.json")
    if not anchors.is_file():
        raise InputError(f"{anchors}: no such file; give --guard or --anchors")
    return _new_guard(model, anchors)


def _describe(guard) -> str:
    """One line on the settings, one per chosen layer on how its direction tells the anchors apart."""
    use, layers = guard.settings, ", ".join(map(str, guard.settings.layers))
    decided = f"decided per {use.decide}" + (" from the text alone" if use.gate_source == "text" else "")
    lines = [f"{use.operator} {use.strength:g} at layers {layers}, scope {use.scope}, gate {use.gate}, {decided}"]
    threshold_L, gap_L = guard.threshold_L(), guard.directions.gap_L()
    for layer in use.layers:
        row = guard.origin["auroc_anchors"][layer]
        lines.append(
            f"  layer {layer}: anchors apart by {gap_L[layer]:.3g}, threshold {threshold_L[layer]:.3g}, "
            f"AUROC {row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}] (in sample)"
        )
    return "\n".join(lines)


def _data_file() -> Path:
    path = Path(_DATA.value)
    return path / "text_harm.json" if path.is_dir() else path


def _requests():
    """The unsafe and safe requests of --data."""
    from vlm_mu_jax.data import readers

    records = readers.read(_data_file()).of_kind("unsafe", "safe")
    if not records:
        raise InputError(f"{_data_file()}: holds neither unsafe nor safe requests; check the file")
    return records


def _judge():
    from vlm_mu_jax.evaluation import judges

    folder = _data_file().parent
    return judges.get(_JUDGE.value, folder) if _JUDGE.value else next(iter(judges.available(folder).values()))


def _blank(model):
    return None if model.config.vision is None else model.processor.blank_pixels(_BLANK.value)


def _select(model) -> None:
    from vlm_mu_jax.cli import guard_trials, progress
    from vlm_mu_jax.steering import selection

    records, judge = _requests(), _judge()
    seen = guard_trials.validation_split(records, _SHARE.value, _LIMIT.value)
    guard = _guard_or_new(model)
    grid = _grid(model, guard)
    score = guard_trials.scorer(model, guard, seen, judge, _blank(model), _TOKENS.value, _BATCH.value)
    chosen = selection.select(grid, score, max_over_refusal=_BOUND.value, progress=progress.bar)
    if chosen.best.operator == "off":  # a guard that does nothing, so that what comes next still runs
        guard = guard.using(operator="amplify", strength=0.0, gate="none")
        print("no setting refuses more harmful requests within the bounds; the written guard does nothing")
    else:
        guard = guard.using(**dataclasses.asdict(chosen.best))
    split = {
        "judge": judge.name,
        "harmful": len(seen.of_kind("unsafe")),
        "harmless": len(seen.of_kind("safe")),
        "data_sha256": records.sha256,
        "validation_ids": [record.id for record in seen],
    }
    guard.save(_OUT.value, {"selection": chosen.as_json() | split})
    print(guard_trials.table(chosen))
    print(_describe(guard))
    print(f"written to {_OUT.value}")


def _grid(model, guard) -> list:
    """The candidates of the flags; gates that this guard cannot have are refused here, before anything is tried."""
    from vlm_mu_jax.steering import selection

    sees_image = guard.settings.gate_source == "self" and model.config.vision is not None
    gates = _GATES.value or ["midpoint_blank" if sees_image else "midpoint"]
    layers = model.config.text.L
    grid = selection.candidates(
        layers,
        operators=_OPERATORS.value,
        strengths=_numbers(_STRENGTHS),
        layer_sets=_LAYER_SETS.value.split(";") if _LAYER_SETS.value else selection.default_layer_sets(layers),
        gates=gates,
        scopes=_SCOPES.value or [guard.settings.scope],
    )  # fmt: skip
    for gate in gates:
        guard.using(gate=gate).threshold_L()
    return grid


def _numbers(flag) -> list[float]:
    try:
        return [float(text) for text in flag.value]
    except ValueError:
        raise InputError(f"--{flag.name}={','.join(flag.value)}: give numbers separated by commas") from None


def _apply(model) -> None:
    """Writes an answers line per request and condition; prints refusals among requests that selection did not see."""
    from vlm_mu_jax.cli import guard_trials, progress
    from vlm_mu_jax.evaluation.answers_file import rewrite
    from vlm_mu_jax.steering import artifact
    from vlm_mu_jax.steering.guard import load_guard
    from vlm_mu_jax.steering.guarded import answer

    records, judge = _requests(), _judge()
    guard = load_guard(_GUARD.value, model, _ALLOW.value)
    seen = set(artifact.read(_GUARD.value)[1].get("selection", {}).get("validation_ids", ()))
    lines, rows = [], []
    for condition in dict.fromkeys(_IMAGE.value):
        answers = answer(
            model,
            [r.question for r in records],
            guard_trials.images_of(model, records, condition, _blank(model)),
            guard=guard,
            max_new_tokens=_TOKENS.value,
            batch_size=_BATCH.value,
            progress=progress.bar,
            label=f"image: {condition}",
        )
        made = [_line(model, records, r, a, condition, judge) for r, a in zip(records, answers, strict=True)]
        lines += made
        rows += _summary(records, made, answers, condition, judge, seen)
    with output.complete_file(_OUT.value) as partial:
        rewrite(partial, lines)
    print(f"by judge {judge.name}" + (", on the requests that selection did not see" if seen else ""))
    print("\n".join(rows))


def _line(model, records, record, answer, condition: str, judge):
    """The answers line of the project (see evaluation.answers_file)."""
    import hashlib

    import numpy as np

    from vlm_mu_jax.evaluation.answers_file import Answer, Condition

    image, image_id, shown = None, None, []
    if condition == "blank":
        image = image_id = f"blank:{_BLANK.value}"
        shown = [_blank(model)]
    elif condition == "own" and record.image is not None:
        shown = [records.image_path(record)]
        image, image_id = "own", hashlib.sha256(shown[0].read_bytes()).hexdigest()[:16]
    ids = np.asarray(model.processor.prompt_ids(record.question, shown), "<i4")
    return Answer(
        id=record.id,
        condition=Condition(image=image or "none"),
        image_id=image_id,
        prompt_sha=hashlib.sha256(ids.tobytes()).hexdigest(),
        question=record.question,
        answer=answer.text,
        tokens=answer.tokens,
        labels={judge.name: judge(record.question, answer.text, record).to_dict()},
    )


def _summary(records, lines, answers, condition: str, judge, seen: set) -> list[str]:
    from vlm_mu_jax.evaluation.statistics import proportion

    rows = []
    for kind, name in (("unsafe", "harmful"), ("safe", "harmless")):
        at = [k for k, record in enumerate(records) if record.kind == kind and record.id not in seen]
        if not at:
            continue
        parts = []
        for label in ("refused", "answered"):
            rate = proportion(sum(lines[k].labels[judge.name]["label"] == label for k in at), len(at))
            parts.append(f"{label} {rate.value:.2f} [{rate.low:.2f}, {rate.high:.2f}]")
        acted = sum(answers[k].gate for k in at) / len(at)
        rows.append(f"{condition:>6} image, {name:<9} n={len(at):<5} {'   '.join(parts)}   gate on {acted:.2f}")
    return rows


def _diagnose(model) -> None:
    from vlm_mu_jax.cli import progress
    from vlm_mu_jax.steering import diagnostics

    records = _requests()
    guard = _guard_or_new(model)
    layer = model.config.text.L // 2 if _LAYER.value is None else _LAYER.value
    states = diagnostics.condition_states(model, records, _blank(model), batch_size=_BATCH.value, progress=progress.bar)
    found = diagnostics.diagnose(states, records, guard.directions, layer)
    output.write_json(
        _OUT.value, found | {"direction": guard.origin, "blank": _BLANK.value, "data_sha256": records.sha256}
    )
    for name, values in found["auroc"].items():
        print(f"AUROC per layer, {name:<6}" + "".join(f"{value:7.3f}" for value in values))


if __name__ == "__main__":
    command.run(main, __doc__, ACTIONS)
