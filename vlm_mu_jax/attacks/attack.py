"""Attacks a model, by any method, and measures it with real answers beside a control.

import vlm_mu_jax
model = vlm_mu_jax.load("runs/sft")
found = vlm_mu_jax.attack(model, "runs/mini/data")                     # every word of the vocabulary
found.words["jailbreak"], found.measured["jailbreak"].any_of_k
"""

import contextlib
import dataclasses
import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from vlm_mu_jax.attacks import method as methods
from vlm_mu_jax.attacks import tables
from vlm_mu_jax.attacks.audit.audit import audit
from vlm_mu_jax.attacks.margin import openings as openings_lib
from vlm_mu_jax.attacks.margin.guards import AttackGuard, FirstPass, attack_guard
from vlm_mu_jax.attacks.margin.openings import Openings, refuses
from vlm_mu_jax.attacks.margin.search_run import MarginsFile, SearchRun, WordScores
from vlm_mu_jax.attacks.measure import Measured, Measurement, judging
from vlm_mu_jax.attacks.method import MeasuredProposal, Method, Setting
from vlm_mu_jax.attacks.methods import images, texts
from vlm_mu_jax.attacks.methods.pgd import FoundImage, PixelAttack
from vlm_mu_jax.attacks.methods.suffix import FoundSuffix, SuffixAttack
from vlm_mu_jax.attacks.options import SEARCHES, SUFFIXES, AttackOptions
from vlm_mu_jax.attacks.questions import AttackRecords
from vlm_mu_jax.attacks.words import vocabulary
from vlm_mu_jax.attacks.words.one_word import OneWord
from vlm_mu_jax.data.readers import hub
from vlm_mu_jax.data.records import Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers import answers_file, share
from vlm_mu_jax.evaluation.answers.answers_file import Answer
from vlm_mu_jax.evaluation.answers.asking import AnswerOptions
from vlm_mu_jax.evaluation.answers.share import Share
from vlm_mu_jax.evaluation.judges import Judge, JudgeOptions, choose
from vlm_mu_jax.files.json_file import write_json
from vlm_mu_jax.files.paths import resolved
from vlm_mu_jax.parallel.distributed import first
from vlm_mu_jax.parallel.meeting import meet, parts, remove_parts
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.steering.guard import Guard
from vlm_mu_jax.storage.identity import weights_hash
from vlm_mu_jax.storage.model_folder import Model


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """What an attack found.

    Attributes:
      method: its name.
      measured: by goal, the rates on verification questions with their control and McNemar test; of the one-word attack
        those at its first position.
      words: by goal, the words that the one-word attack chose; empty for other methods.
      answers: every answer that was asked for, with its label.
      content: the content of attack.json.
    """

    method: str
    measured: Mapping[str, Measured]
    words: Mapping[str, Sequence[str]]
    answers: Sequence[Answer]
    content: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as attack.json holds them."""
        return dict(self.content)

    def table(self) -> str:
        """What bin/attack prints."""
        return tables.attack_table(self.content)


def attack(
    model: Model,
    records: Records | AttackRecords | str | Path,
    options: AttackOptions = AttackOptions(),
    *,
    judge: str | Judge | JudgeOptions | None = None,
    guard: str | Path | Guard | None = None,
    reference: Model | None = None,
    out: str | Path | None = None,
    name: str | None = None,
    meshes: Sequence[Mesh] = (),
    progress: Progress | None = None,
) -> AttackResult:
    """Attacks a model and measures the attack with real answers, beside a control.

        found = vlm_mu_jax.attack(model, records, vlm_mu_jax.AttackOptions(method="prefill"), judge="rules")
        print(found.table())

    Args:
      model: what `vlm_mu_jax.load` returns.
      records: the questions. `AttackRecords` names those that are searched and those that are verified; plain records
        are split in halves, and so is a file of questions; a folder is read as bin/attack reads it.
      judge: whose labels count. None is the oracle where the data have one, else the judge `refusal`.
      guard: attacks the guarded model: a guard, or its folder.
      reference: the model before its safety tuning, for over-refusal words; see `words.one_word.OneWord`.
      out: JSON file to write. Scores, answers and images go beside it (NAME.margins.jsonl, NAME.answers.jsonl,
        NAME.images/), and a killed attack continues from them. None writes nothing that stays.
      name: what the result calls the model; None is the name of its folder.
      meshes: every mesh searches questions of its own; see `search_run.meshes_of`.
      progress: shows progress; None is silent.

    In a job of several processes all call this, with the model on each one's own devices. Questions are shared out, in
    the search and in the measurement; process 0 judges and writes.

    Raises:
      InputError: options, records, guard or judge do not fit, or a prompt is longer than the model's positions.
      JobError: a score is not a finite number, or another attack is writing the same file.
    """
    if jax.process_count() > 1 and out is None:
        raise InputError("an attack in a job of several processes needs `out`, where they share its files")
    data = _data(records, model, options)
    steer = _guard(model, guard, options)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = folder / "attack.json" if out is None else Path(out)
        counted = choose(judge, data.verify.source.parent, path.with_name(f"{path.name}.judging")).counted
        method = method_of(model, data, options, reference)
        identity = _identity(model, method, steer, options)
        answers, file = stack.enter_context(_resumable(path, identity, _kept(options)))
        answering = AnswerOptions(options.batch_size, options.max_new_tokens, steer.answers, progress)
        measurement, run = Measurement(model, counted, answers, answering), SearchRun(meshes, file, progress)
        images = beside(path, "images")
        setting = Setting(model, data.search, data.verify, options.draw, measurement, steer.search, run, images)
        measured, asked = methods.run(method, setting), answers_file.read(answers)
        content = method.report(setting, measured) | _about(data, options, name or _name(model))
        content |= judging(asked, counted)
        if out is not None and first():
            write_json(path, content)
    return AttackResult(method.name, _main_rates(measured), _words(content), asked, content)


def search_share(
    model: Model,
    records: Records | AttackRecords | str | Path,
    options: AttackOptions,
    share: Share,
    out: str | Path,
    *,
    guard: str | Path | Guard | None = None,
    reference: Model | None = None,
    meshes: Sequence[Mesh] = (),
    progress: Progress | None = None,
) -> None:
    """Searches a share of an attack's questions, in a job that needs no other.

    `attack` with the same arguments takes what all shares have found, searches what is missing, and measures.

    Args:
      share: the part of the questions.

    Other arguments are those of `attack`.

    Raises:
      InputError: the method has no searches that can be shared out, or what `attack` raises.
      JobError: a score is not a finite number, or another job is searching this share.
    """
    data, steer = _data(records, model, options), _guard(model, guard, options)
    method = method_of(model, data, options, reference)
    identity = _identity(model, method, steer, options)
    with MarginsFile(beside(out, "margins.jsonl"), identity, _kept(options), share) as file:
        run, images = SearchRun(meshes, file, progress), beside(out, "images")
        method.search(Setting(model, data.search, data.verify, options.draw, None, steer.search, run, images, share))


def _guard(model: Model, guard: str | Path | Guard | None, options: AttackOptions) -> AttackGuard:
    """The guard, opened for an attack with these options."""
    opened = attack_guard(model, guard, options.searches)
    if options.method in SEARCHES and isinstance(opened.search, FirstPass):
        opened.search.check_whole(options.method)
    return opened


def beside(out: str | Path, what: str) -> Path:
    """Where an attack keeps its scores ("margins.jsonl"), answers ("answers.jsonl") and "images"."""
    return Path(out).with_name(f"{Path(out).stem}.{what}")


def method_of(model: Model, data: AttackRecords, options: AttackOptions, reference: Model | None = None) -> Method:
    """The method that the options name, with what it takes from the data."""
    method = options.method
    if method == "one_word":
        words, given = _candidates(model, data, options), options.words.candidates
        by_frequency = isinstance(given, str) and vocabulary.is_frequency_list(given)
        return OneWord(words, _refusals(model, data, options), options.words, reference, by_frequency)
    if method in SUFFIXES:
        use = dataclasses.replace(options.suffix, seed=options.seed)
        return SuffixAttack(method, _openings(model, data, options), use, options.universal)
    if method == "pgd":
        return PixelAttack(_openings(model, data, options), options.of_pixels)
    if method == "prefill":
        return texts.prefill(options.prefills, _answered(data))
    if method == "paraphrase":
        return texts.paraphrase(options.paraphrases, options.word, options.words.mode)
    return images.pictures(method, options.carrier, options.image)


def _data(records: Records | AttackRecords | str | Path, model: Model, options: AttackOptions) -> AttackRecords:
    """The questions of the attacked turn that are not too long for the model."""
    return _read(records, options.seed).at_turn(options.turn).fitting(model, options.max_new_tokens)


def _read(records: Records | AttackRecords | str | Path, seed: int) -> AttackRecords:
    if isinstance(records, AttackRecords):
        return records
    if isinstance(records, Records):
        return AttackRecords.halved(records, seed)
    return AttackRecords.read(hub.local(records), seed=seed)


def _answered(data: AttackRecords) -> list[str]:
    """Reference answers that do not refuse."""
    return [record.answer for record in data.safety_records() if record.answer and not refuses(record)]


def _refusals(model: Model, data: AttackRecords, options: AttackOptions) -> Openings:
    """The refusal openings that are given, else those of the reference answers."""
    if options.openings is not None:
        return openings_lib.from_texts(options.openings, model.processor)
    return openings_lib.of_records(data.safety_records(), model.processor)


def _openings(model: Model, data: AttackRecords, options: AttackOptions) -> Openings:
    """What a search is after: the beginnings that are wanted, or refusals, which are not."""
    if options.targets is None:
        return _refusals(model, data, options)
    wanted = texts.beginnings(_answered(data), options.shots) if options.targets == "data" else options.targets
    return dataclasses.replace(openings_lib.from_texts(wanted, model.processor), wanted=True)


def _candidates(model: Model, data: AttackRecords, options: AttackOptions) -> list[str]:
    given = options.words.candidates
    if given == "audit":
        return vocabulary.first_words(audit(data.safety_records()).to_dict()["rows"])
    if isinstance(given, str):
        return vocabulary.candidate_words(given, model.processor.tokenizer)
    return vocabulary.distinct(given)


def _identity(model: Model, method: Method, guard: AttackGuard, options: AttackOptions) -> dict[str, Any]:
    """What makes scores and answers those of this very attack: a file of another one is started anew."""
    program = {
        "version": version("vlm_mu_jax"),
        "weights": weights_hash(model.params),
        "guard": guard.sha256,
        "template": model.processor.template,
        "max_new_tokens": options.max_new_tokens,
        "turn": options.turn,
    }
    if isinstance(method, OneWord):
        return program | {
            "reference": method.reference and weights_hash(method.reference.params),
            "words": hashlib.sha256("\n".join(method.words).encode()).hexdigest(),
            "openings": method.openings.refusal,
            "positions": options.words.positions,
            "mode": options.words.mode,
            "top": max(options.shots, options.words.shortlist),
        }
    openings = getattr(method, "openings", None)
    return program | {
        "method": method.name,
        "settings": options.of_method(),
        "openings": openings and [openings.wanted, openings.refusal],
    }


def _kept(options: AttackOptions) -> type:
    """What the file of finished questions holds."""
    if options.method == "one_word":
        return WordScores
    return FoundImage if options.method == "pgd" else FoundSuffix


@contextlib.contextmanager
def _resumable(out: Path, identity: Mapping[str, Any], kind: type) -> Iterator[tuple[Path, MarginsFile]]:
    """(answers file, open file of finished questions): both of this very attack, or new."""
    answers, margins = beside(out, "answers.jsonl"), beside(out, "margins.jsonl")
    with MarginsFile(margins, identity, kind) as file:
        if first():
            if not file.resumed:
                answers.unlink(missing_ok=True)  # of an earlier attack, perhaps on another model
            elif parts(answers):
                share.append(answers, parts(answers))
            remove_parts(answers)
        meet("answers file")
        yield answers, file


def _about(data: AttackRecords, options: AttackOptions, name: str) -> dict[str, Any]:
    content = {
        "model": name,
        "search_split": data.split,
        "turn": options.turn,
        "turns": dict(data.turns),
        "data": {records.source.name: records.sha256 for records in (data.search, data.verify)},
    }
    if options.method == "one_word":
        given = options.words.candidates
        content["words"] = given if isinstance(given, str) else "given"
    return content


def _name(model: Model) -> str:
    """The folder's name, or that of the run that it is the final model of."""
    folder = resolved(model.folder)
    return folder.parent.name if folder.name == "model" else folder.name


def _main_rates(measured: Sequence[MeasuredProposal]) -> dict[str, Measured]:
    """By goal; of several positions the first."""
    return {one.proposal.goal: one.main for one in reversed(measured)}


def _words(content: Mapping[str, Any]) -> dict[str, list[str]]:
    return {goal: [row["word"] for row in content[goal]] for goal in methods.GOALS if content.get(goal)}
