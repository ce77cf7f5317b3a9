"""bin/guard diagnose: what an image does to the model's states and, with --answers, to its answers."""

from typing import Any

from absl import flags

from vlm_mu_jax.cli import guard_extract, guard_flags
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files import outputs
from vlm_mu_jax.files.json_file import write_json

_LAYER = flags.DEFINE_integer("layer", None, "diagnose: layer of the PCA; the middle one without it", lower_bound=0)
_ANSWERS = flags.DEFINE_bool(
    "answers", False, "diagnose: answer every request in every condition too; refusals, length and perplexity"
)
_PERPLEXITY_MODEL = flags.DEFINE_string(
    "perplexity_model", None, "diagnose --answers: model folder that scores answers (default: the language tower)"
)

NEEDS = (guard_flags.DATA,)


def check() -> None:
    """What can be wrong before the model is loaded."""
    from vlm_mu_jax.storage import model_folder

    outputs.check_writable(guard_flags.OUT.value)
    guard_flags.requests()
    for folder in filter(None, (guard_extract.LLM.value, _PERPLEXITY_MODEL.value)):
        model_folder.find(folder)
    if _PERPLEXITY_MODEL.value and not _ANSWERS.value:
        raise InputError("--perplexity_model scores answers; add --answers")
    if _ANSWERS.value:
        guard_flags.judge()


def run(model) -> None:
    from vlm_mu_jax import progress
    from vlm_mu_jax.steering import diagnostics
    from vlm_mu_jax.steering.states import POSITION

    records, kind = guard_flags.requests(), guard_flags.BLANK.value
    guard = guard_extract.guard_or_new(model)
    if guard.origin["position"] != POSITION:
        raise InputError(f"the guard reads {guard.origin['position']}, diagnosis reads {POSITION}; use another guard")
    layer = model.config.text.L // 2 if _LAYER.value is None else _LAYER.value
    how: dict[str, Any] = {"batch_size": guard_flags.BATCH.value, "progress": progress.bar}
    states = diagnostics.condition_states(model, records, guard_flags.blank(model), **how)
    found = diagnostics.diagnose(states, records, guard.directions, layer)
    if "blank" in states:
        others = [name for name in diagnostics.BLANKS if name != kind]
        blanks = {kind: states["blank"]} | diagnostics.blank_states(model, records, others, **how)
        found["stress"] = diagnostics.stress(blanks, states["text"], records, guard.directions)
    if guard_extract.LLM.value:
        found["cosine"] = _with_llm(states, records, how)
    if _ANSWERS.value:
        found["answers"] = _answers(model, records)
    about = {"direction": guard.origin, "blank": kind, "llm": guard_extract.LLM.value, "data_sha256": records.sha256}
    write_json(guard_flags.OUT.value, found | about)
    _show(found)


def _with_llm(states, records, how: dict[str, Any]) -> dict[str, list[float]]:
    from vlm_mu_jax.steering import diagnostics
    from vlm_mu_jax.steering.states import last_token_states
    from vlm_mu_jax.storage import model_folder

    llm = model_folder.load(guard_extract.LLM.value)
    llm_LND = last_token_states(llm, [r.question for r in records], **how, label="states, other language model")
    return diagnostics.cosines(states, diagnostics.kinds_of(records), llm_LND)


def _answers(model, records) -> dict[str, Any]:
    """{"judge", "perplexity_model", "conditions": {condition: {harmful, harmless: rates; perplexity, tokens}}}."""
    from vlm_mu_jax import progress
    from vlm_mu_jax.cli import guard_trials
    from vlm_mu_jax.evaluation.perplexity import Perplexity
    from vlm_mu_jax.steering.diagnostics import BLANKS
    from vlm_mu_jax.steering.guarded import answer
    from vlm_mu_jax.storage import model_folder

    judge, size = guard_flags.judge(), guard_flags.BATCH.value
    scorer = Perplexity(model_folder.load(_PERPLEXITY_MODEL.value) if _PERPLEXITY_MODEL.value else model, size)
    asked: dict[str, list | None] = {"text": None}
    if model.config.vision is not None:
        asked |= {kind: [model.processor.blank_pixels(kind)] * len(records) for kind in BLANKS}
        if all(record.image is not None for record in records):
            asked["own"] = guard_trials.images_of(model, records, "own", None)
    conditions = {}
    for name, images in asked.items():
        made = answer(
            model,
            [r.question for r in records],
            images,
            max_new_tokens=guard_flags.TOKENS.value,
            batch_size=size,
            progress=progress.bar,
            label=f"answers, {name}",
        )
        labels = [one.label for one in guard_trials.labels_of(judge, records, made, name == "own", progress.bar)]
        scores = scorer([r.question for r in records], [a.text for a in made], progress.bar)
        conditions[name] = _rates(records, labels) | _fluency(scores, labels)
    return {"judge": judge.name, "perplexity_model": scorer.name, "conditions": conditions}


def _rates(records, labels) -> dict[str, Any]:
    """{"harmful", "harmless": {label: metric}}; answers without a verdict leave the denominator."""
    from vlm_mu_jax.evaluation.judges import LABELS
    from vlm_mu_jax.evaluation.statistics import proportion

    found = {}
    for name, unsafe in (("harmful", True), ("harmless", False)):
        own = [label for record, label in zip(records, labels, strict=True) if (record.kind == "unsafe") == unsafe]
        known = [label for label in own if label is not None]
        found[name] = {label: proportion(known.count(label), len(known)).to_dict() for label in LABELS}
    return found


def _fluency(scores, labels) -> dict[str, Any]:
    from vlm_mu_jax.evaluation.perplexity import summary

    kept = [score for score, label in zip(scores, labels, strict=True) if label != "refused"]
    return summary(scores) | {"perplexity_not_refused": summary(kept)["perplexity"]}


def _show(found: dict[str, Any]) -> None:
    for key, title in (("auroc", "AUROC along the text direction"), ("auroc_refit", "AUROC, direction fitted anew")):
        for name, values in found[key].items():
            print(f"{title + ', ' + name:<38}" + "".join(f"{value:7.3f}" for value in values))
    for kind, row in found.get("stress", {}).items():
        print(f"{'AUROC along the text direction, ' + kind:<38}" + "".join(f"{value:7.3f}" for value in row["auroc"]))
    for name, values in found["cosine"].items():
        print(f"{'cosine with the text direction, ' + name:<38}" + "".join(f"{value:7.3f}" for value in values))
    for name, row in found.get("answers", {}).get("conditions", {}).items():
        shown = [("harmful", "answered"), ("harmful", "refused"), ("harmless", "refused")]
        rates = "  ".join(f"{kind} {label} {_number(row[kind][label], 100)} %" for kind, label in shown)
        print(f"answers, {name:<6} {rates}  perplexity {_number(row['perplexity'])}  tokens {_number(row['tokens'])}")


def _number(metric: dict[str, Any], scale: float = 1) -> str:
    return "-" if metric["value"] is None else f"{scale * metric['value']:.3g}"
