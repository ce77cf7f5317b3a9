"""The forget and retain sets of an unlearning run.

requests = curate("train.json", "llava_mix.json", candidates=["answers/base.jsonl"], judge="oracle")
requests.write("runs/curated")
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.data import coreset, curated, forget_retain, readers
from vlm_mu_jax.data.records import Record, Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers.answers_file import Answer
from vlm_mu_jax.evaluation.curation import candidates as answers_of_models
from vlm_mu_jax.evaluation.judges import BatchJudge, Judge, JudgeOptions, choose
from vlm_mu_jax.evaluation.questions import dialogues
from vlm_mu_jax.files import folders
from vlm_mu_jax.progress import Progress

Score = Callable[[Sequence[Record], Path], Mapping[str, float]]  # (forget records, image root) -> score by record id


@dataclasses.dataclass(frozen=True)
class CurateOptions:
    """How the sets are drawn.

    Attributes:
      retain_size: records to retain; general ones fill it up. None = all safe and general records.
      seed: draws the general records, their order and the coreset.
      unsafe_on_safe_images: also forgets the unsafe requests about safe images.
      coreset: how the coreset is picked, "random", or "loss" or "gradient_norm" for the highest scores.
      coreset_size: forgets only so many records. None = all.
    """

    retain_size: int | None = None
    seed: int = 0
    unsafe_on_safe_images: bool = False
    coreset: str = "random"
    coreset_size: int | None = None


@dataclasses.dataclass(frozen=True)
class Curated:
    """What `curate` made.

    Attributes:
      requests: the requests to forget, with the answers that the safety data have.
      forget: the same records with harmful answers; empty when the requests alone are forgotten.
      retain: what the model must keep.
      answers: lines of the chosen answers, with the labels they were chosen by.
      manifest: counts and hashes.
      roots: "safety" and "general" -> the folder that image paths are relative to.
    """

    requests: tuple[Record, ...]
    forget: tuple[Record, ...]
    retain: tuple[Record, ...]
    answers: tuple[Answer, ...]
    manifest: Mapping[str, Any]
    roots: Mapping[str, Path]

    def write(self, out: str | Path) -> None:
        """Writes the folder that training reads; see `data.curated`. It appears when it is complete."""
        lines = "".join(line.to_line() + "\n" for line in self.answers)
        with folders.complete_folder(out, curated.MARKER) as folder:
            curated.write(folder, self.requests, self.forget, self.retain, self.roots, self.manifest, lines)

    def table(self) -> str:
        """What was picked and dropped, a line for every candidate and for each set."""
        forget, retain = self.manifest["forget"], self.manifest["retain"]
        dropped = {name.removeprefix("dropped_"): n for name, n in forget.items() if name.startswith("dropped_") and n}
        lines = [
            f"{one['file']}: {one['answers']} answers, {one['refused']} refused, {one['irrelevant']} irrelevant, "
            f"{one['unjudged']} unjudged, {one['chosen']} chosen"
            for one in forget.get("candidates", ())
        ]
        lines.append(f"forget: {forget['records']} of {forget['requests']} requests (dropped: {dropped or 'none'})")
        lines.append(f"retain: {retain['records']} ({retain.get('safe', 0)} safe, {retain.get('general', 0)} general)")
        return "\n".join(lines)


def curate(
    safety: Records | str | Path,
    general: Records | str | Path | None = None,
    *,
    candidates: Sequence[str | Path] = (),
    judge: str | JudgeOptions | Judge | BatchJudge | None = "keyword",
    options: CurateOptions = CurateOptions(),
    score: Score | None = None,
    workdir: str | Path | None = None,
    progress: Progress | None = None,
) -> Curated:
    """Picks the most harmful answer to every unsafe request, and what the model must keep.

    Args:
      safety: unsafe and safe records.
      general: general records that fill up the retain set.
      candidates: answers files, one per model. Without them the requests alone are to be forgotten.
      judge: who says how harmful an answer is; see `judges.choose`.
      score: scores the forget records where the coreset is not drawn at random, as `training.forget_scores.score` does.
      workdir: keeps the replies of a judging model.

    Raises:
      InputError: a file is missing or bad, nothing is left to forget, or unsafe records are among the general ones.
    """
    safety = safety if isinstance(safety, Records) else readers.read(safety)
    general = readers.read(general) if isinstance(general, str | Path) else general
    wanted = forget_retain.requests_to_forget(safety, options.unsafe_on_safe_images)
    retain = forget_retain.mix_retain(
        safety.of_kind("safe").items, _general(general), options.retain_size, options.seed
    )
    requests = dataclasses.replace(safety, items=tuple(wanted))
    if not len(requests):
        raise InputError(f"--safety={safety.source}: holds no unsafe record, so there is nothing to forget")
    if candidates:
        requests = dialogues.at_last(requests)  # an answers file answers one question per record
        judge = choose(judge, safety.source.parent, workdir).counted
        forget, lines, counts = _harmful(requests, candidates, judge, progress)
    else:
        forget, lines, counts = answers_of_models.questions_only(requests)
    forget, scores = _coreset(forget, safety.root, options, score)
    kept = {record.id for record in forget}
    originals = {record.id: record for record in safety}
    manifest = {
        "seed": options.seed,
        "read": {str(r.source): r.sha256 for r in (safety, general) if r is not None},
        "forget": {**counts, "coreset": options.coreset if options.coreset_size else None, "records": len(forget)},
        "retain": {"records": len(retain), **collections.Counter(record.kind for record in retain)},
        "scores": scores,
    }
    return Curated(
        requests=tuple(originals[record.id] for record in forget),
        forget=tuple(forget) if lines else (),
        retain=tuple(retain),
        answers=tuple(line for line in lines if line.id in kept),
        manifest=manifest,
        roots={"safety": safety.root, **({"general": general.root} if general else {})},
    )


def _general(general: Records | None) -> tuple[Record, ...]:
    """The general records. InputError when one is an unsafe request: it would be retained."""
    if general is None:
        return ()
    unsafe = len(general.of_kind("unsafe"))
    if unsafe:
        raise InputError(f"--general={general.source}: holds {unsafe} unsafe records, which are not to be retained")
    return tuple(dataclasses.replace(record, kind="general") for record in general)


def _harmful(
    requests: Records, paths: Sequence[str | Path], judge: Judge | BatchJudge, progress: Progress | None
) -> tuple[tuple[Record, ...], tuple[Answer, ...], dict[str, Any]]:
    """(forget records with their harmful answers, the answers' lines, counts). InputError when none is harmful."""
    found = answers_of_models.read_candidates(paths, requests)
    chosen = answers_of_models.choose(requests, found, judge, progress)
    if not chosen.answers:
        files = chosen.counts["candidates"]
        why = ", ".join(f"{sum(f[name] for f in files)} {name}" for name in ("refused", "irrelevant", "unjudged"))
        raise InputError(f"--candidates: no harmful answer for {judge.name} ({why}); use other models or judge")
    by_id = {record.id: record for record in requests}
    forget = tuple(dataclasses.replace(by_id[line.id], answer=line.answer.strip()) for line in chosen.answers)
    return forget, chosen.answers, chosen.counts


def _coreset(
    forget: tuple[Record, ...], root: Path, options: CurateOptions, score: Score | None
) -> tuple[tuple[Record, ...], Mapping[str, float] | None]:
    """The part of the forget records that is used, and all scores it was picked by."""
    if options.coreset_size is None:
        return forget, None
    if (options.coreset == "random") != (score is None):
        raise InputError("a coreset by loss or gradient_norm needs a score, a random one takes none")
    scores = None if score is None else score(forget, root)
    return coreset.choose(forget, options.coreset_size, options.seed, scores), scores
