"""bin/guard apply: answers a request file with the guard on."""

from absl import flags

from vlm_mu_jax.cli import guard_flags
from vlm_mu_jax.files import outputs

_IMAGE = flags.DEFINE_multi_enum(
    "image", ["blank"], ["own", "blank", "none"], "apply: image of every question; may be given several times"
)

NEEDS = (guard_flags.DATA, guard_flags.GUARD)


def check() -> None:
    """What can be wrong before the model is loaded."""
    outputs.check_writable(guard_flags.OUT.value)
    guard_flags.requests()
    guard_flags.judge()


def run(model) -> None:
    """Writes an answers line per request and condition; prints refusals among requests that selection did not see."""
    from vlm_mu_jax import progress
    from vlm_mu_jax.cli import guard_trials
    from vlm_mu_jax.evaluation.answers.answers_file import rewrite
    from vlm_mu_jax.steering import artifact
    from vlm_mu_jax.steering.guard import load_guard
    from vlm_mu_jax.steering.guarded import answer

    records, judge = guard_flags.requests(), guard_flags.judge()
    folder = guard_flags.GUARD.value
    guard = load_guard(folder, model, guard_flags.ALLOW.value)
    seen = set(artifact.read(folder)[1].get("selection", {}).get("validation_ids", ()))
    lines, rows = [], []
    for condition in dict.fromkeys(_IMAGE.value):
        answers = answer(
            model,
            [r.question for r in records],
            guard_trials.images_of(model, records, condition, guard_flags.blank(model)),
            guard=guard,
            max_new_tokens=guard_flags.TOKENS.value,
            batch_size=guard_flags.BATCH.value,
            progress=progress.bar,
            label=f"image: {condition}",
        )
        labels = guard_trials.labels_of(judge, records, answers, condition == "own", progress.bar)
        made = [
            _line(model, records, record, answer, condition, {judge.name: label.to_dict()})
            for record, answer, label in zip(records, answers, labels, strict=True)
        ]
        lines += made
        rows += _summary(records, made, answers, condition, judge, seen)
    with outputs.complete_file(guard_flags.OUT.value) as partial:
        rewrite(partial, lines)
    print(f"by judge {judge.name}" + (", on the requests that selection did not see" if seen else ""))
    print("\n".join(rows))


def _line(model, records, record, answer, condition: str, labels: dict):
    """The answers line of the project (see evaluation.answers_file)."""
    import hashlib

    import numpy as np

    from vlm_mu_jax.evaluation.answers.answers_file import Answer, Condition

    image, image_id, shown = None, None, []
    if condition == "blank":
        image = image_id = f"blank:{guard_flags.BLANK.value}"
        shown = [guard_flags.blank(model)]
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
        labels=labels,
    )


def _summary(records, lines, answers, condition: str, judge, seen: set) -> list[str]:
    from vlm_mu_jax.evaluation.statistics import proportion

    rows = []
    for kind, name in (("unsafe", "harmful"), ("safe", "harmless")):
        at = [k for k, record in enumerate(records) if record.kind == kind and record.id not in seen]
        if not at:
            continue
        parts = []
        found = [lines[k].labels[judge.name]["label"] for k in at]
        known = [label for label in found if label is not None]
        if len(known) < len(found):
            parts.append(f"no verdict on {len(found) - len(known)}")
        for label in ("refused", "answered") if known else ():
            rate = proportion(known.count(label), len(known))
            parts.append(f"{label} {rate.value:.2f} [{rate.low:.2f}, {rate.high:.2f}]")
        acted = sum(answers[k].gate for k in at) / len(at)
        rows.append(f"{condition:>6} image, {name:<9} n={len(at):<5} {'   '.join(parts)}   gate on {acted:.2f}")
    return rows
