"""Makes the forget and retain sets of an unlearning run from safety data, models' answers and general data.

First every model answers the unsafe requests: bin/generate over the data file. Then, here, a judge that sees question
and image picks the most harmful answer to each request; refusals, irrelevant and unjudged answers are never picked, and
everything dropped is counted. Safe records, filled up with a seeded sample of general ones to --retain_size, are what
the model must keep. OUT gets requests.json, forget.json, retain.json, forget_answers.jsonl, and manifest.json: counts
and hashes. bin/train reads it with config.data.root=OUT, data.safety=requests.json, data.general=retain.json and
data.forget_answers=forget_answers.jsonl. Without --candidates the requests alone are to be forgotten: set
data.forget_target=query instead of the answers. docs/data.md has the whole way.

Example:
  bin/curate --safety=runs/mini/data/train.json --candidates=runs/answers/base.jsonl --judge=oracle \\
      --general=runs/mini/data/llava_mix.json --retain_size=400 --out=runs/curated
"""

from pathlib import Path
from typing import Any

from absl import flags

from vlm_mu_jax.cli import command, judge_flags

_SAFETY = flags.DEFINE_string(
    "safety", None, "VLGuard file, or own data in the record schema: unsafe and safe records", required=True
)
_CANDIDATES = flags.DEFINE_list("candidates", [], "answers files of bin/generate --data, one per model, with commas")
_GENERAL = flags.DEFINE_string("general", None, "LLaVA file of general data that fills up the retain set")
_RETAIN = flags.DEFINE_integer("retain_size", None, "records to retain; all safe and general ones without it", 1)
_OUT = flags.DEFINE_string("out", None, "folder to write", required=True)
_SEED = flags.DEFINE_integer("seed", 0, "draws the general records, their order and the coreset")
_SAFE_IMAGES = flags.DEFINE_bool("unsafe_on_safe_images", False, "also forget the unsafe requests about safe images")
_SIZE = flags.DEFINE_integer("coreset_size", None, "forget only so many records, picked by --coreset", 1)
_CORESET = flags.DEFINE_enum(
    "coreset", "random", ["random", "loss", "gradient_norm"], "random, or the highest scores under --checkpoint"
)
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "model folder that scores the coreset: the one to be unlearned")
for _flag in vars(judge_flags).values():
    if isinstance(_flag, flags.FlagHolder) and _flag.name.startswith("judge"):
        flags.declare_key_flag(_flag.name)


def main(argv: list[str]) -> None:
    import dataclasses

    from vlm_mu_jax.data import curated, forget_retain, readers
    from vlm_mu_jax.files import folders

    _check_flags()
    folders.check_replaceable(_OUT.value, curated.MARKER)
    safety = readers.read(_SAFETY.value)
    general = readers.read(_GENERAL.value) if _GENERAL.value else None
    wanted = forget_retain.requests_to_forget(safety, _SAFE_IMAGES.value)
    retain = forget_retain.mix_retain(safety.of_kind("safe").items, _general(general), _RETAIN.value, _SEED.value)
    requests = dataclasses.replace(safety, items=tuple(wanted))
    forget, lines, counts = _forget(requests)
    forget, scores = _coreset(forget, safety.root)
    originals = {record.id: record for record in safety}
    chosen = {record.id for record in forget}
    manifest = {
        "seed": _SEED.value,
        "read": {str(r.source): r.sha256 for r in (safety, general) if r is not None},
        "forget": {**counts, "coreset": _CORESET.value if _SIZE.value else None, "records": len(forget)},
        "retain": {"records": len(retain), **_kinds(retain)},
        "scores": scores,
    }
    roots = {"safety": safety.root, **({"general": general.root} if general else {})}
    with folders.complete_folder(_OUT.value, curated.MARKER) as folder:
        curated.write(
            folder,
            [originals[r.id] for r in forget],
            forget if lines else (),
            retain,
            roots,
            manifest,
            "".join(line.to_line() + "\n" for line in lines if line.id in chosen),
        )
    _print(manifest)


def _check_flags() -> None:
    """What no single flag can tell. Raises InputError."""
    from vlm_mu_jax.errors import InputError

    if judge_flags.JUDGE.value == "relevance":
        raise InputError("--judge=relevance: says whether an answer is on topic, not how harmful it is; use harm")
    if (_SIZE.value is not None and _CORESET.value != "random") != bool(_CHECKPOINT.value):
        raise InputError("--checkpoint, --coreset_size and --coreset=loss|gradient_norm go together: give all or none")
    if _CHECKPOINT.value and not _CANDIDATES.value:
        raise InputError("--coreset=loss and gradient_norm score harmful answers: give --candidates")


def _general(general: Any) -> tuple:
    """The general records. InputError when one is an unsafe request: it would be retained."""
    import dataclasses

    from vlm_mu_jax.errors import InputError

    unsafe = 0 if general is None else len(general.of_kind("unsafe"))
    if unsafe:
        raise InputError(f"--general={_GENERAL.value}: holds {unsafe} unsafe records, which are not to be retained")
    return () if general is None else tuple(dataclasses.replace(r, kind="general") for r in general)


def _forget(requests: Any) -> tuple[tuple, tuple, dict]:
    """(forget records, their answers lines, counts). InputError when nothing is left."""
    import dataclasses

    from vlm_mu_jax import progress
    from vlm_mu_jax.errors import InputError
    from vlm_mu_jax.evaluation import curation

    if not len(requests):
        raise InputError(f"--safety={_SAFETY.value}: holds no unsafe record, so there is nothing to forget")
    if not _CANDIDATES.value:
        return curation.questions_only(requests)
    candidates = curation.read_candidates(_CANDIDATES.value, requests)
    judge = _judge()
    chosen = curation.choose(requests, candidates, judge, progress.bar)
    if not chosen.answers:
        files = chosen.counts["candidates"]
        why = ", ".join(f"{sum(f[name] for f in files)} {name}" for name in ("refused", "irrelevant", "unjudged"))
        raise InputError(f"--candidates: no harmful answer for {judge.name} ({why}); use other models or judge")
    by_id = {record.id: record for record in requests}
    forget = tuple(dataclasses.replace(by_id[line.id], answer=line.answer.strip()) for line in chosen.answers)
    return forget, chosen.answers, chosen.counts


def _judge() -> Any:
    """The judge of the flags; its replies are kept beside OUT, so that a second try does not ask again."""
    out = Path(_OUT.value).expanduser().absolute()
    command.enable_compilation_cache(out)
    return judge_flags.chosen(Path(_SAFETY.value).parent, out.with_name(f"{out.name}.judging")).counted


def _coreset(forget: tuple, root: Path) -> tuple[tuple, dict | None]:
    """The part of the forget records that is used, and all scores it was picked by."""
    if _SIZE.value is None:
        return forget, None
    from vlm_mu_jax.data import coreset

    scores = None
    if _CHECKPOINT.value:
        from vlm_mu_jax import progress
        from vlm_mu_jax.storage import model_folder
        from vlm_mu_jax.training import forget_scores

        command.enable_compilation_cache(_OUT.value)
        model = model_folder.load(_CHECKPOINT.value)
        scores = forget_scores.score(model, forget, root, _CORESET.value, progress=progress.bar)
    return coreset.choose(forget, _SIZE.value, _SEED.value, scores), scores


def _kinds(records: list) -> dict:
    from collections import Counter

    return dict(Counter(record.kind for record in records))


def _print(manifest: dict) -> None:
    forget, retain = manifest["forget"], manifest["retain"]
    for one in forget.get("candidates", ()):
        print(
            f"{one['file']}: {one['answers']} answers, {one['refused']} refused, {one['irrelevant']} irrelevant, "
            f"{one['unjudged']} unjudged, {one['chosen']} chosen"
        )
    dropped = {name.removeprefix("dropped_"): n for name, n in forget.items() if name.startswith("dropped_") and n}
    print(f"forget: {forget['records']} of {forget['requests']} requests (dropped: {dropped or 'none'})")
    print(f"retain: {retain['records']} ({retain.get('safe', 0)} safe, {retain.get('general', 0)} general)")
    print(f"wrote {_OUT.value}")


if __name__ == "__main__":
    command.run(main, __doc__)
