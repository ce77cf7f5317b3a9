"""One evaluation from questions to `results.json`: ask, judge, count, compare.

import vlm_mu_jax
model = vlm_mu_jax.load("runs/sft")
found = vlm_mu_jax.evaluate(model, "runs/mini/data", attack_words="runs/attack_sft.json")
found.metric("asr_before"), found.metric("asr_after")
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from vlm_mu_jax.data import questions as question_files
from vlm_mu_jax.data.readers import hub
from vlm_mu_jax.data.records import Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation import workdir as workdirs
from vlm_mu_jax.evaluation.answering import Making, answered
from vlm_mu_jax.evaluation.answers.suite_answers import SuiteAnswers, stored_answers
from vlm_mu_jax.evaluation.defences import wrappers
from vlm_mu_jax.evaluation.defences.wrappers import VANILLA, Wording
from vlm_mu_jax.evaluation.judges import BatchJudge, ChosenJudges, Judge, JudgeOptions, calibration, choose, judge_many
from vlm_mu_jax.evaluation.judges.calibration import Labelled
from vlm_mu_jax.evaluation.judging import judge_suite
from vlm_mu_jax.evaluation.questions import public_sets
from vlm_mu_jax.evaluation.questions import suite as suites
from vlm_mu_jax.evaluation.questions.suite import AttackWords, Suite
from vlm_mu_jax.evaluation.results.summary import Answered, Evaluation, RunName, against, baseline_answers, summarise
from vlm_mu_jax.evaluation.utility import mmvet
from vlm_mu_jax.files.paths import at_home
from vlm_mu_jax.model.quantize import Scheme
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.steering import guard_folder
from vlm_mu_jax.steering.guard import Guard
from vlm_mu_jax.storage import model_folder
from vlm_mu_jax.storage.model_folder import Model


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """What is asked, and how.

    Attributes:
      name, kind: how results and report call the run; kind is base, sft, npo, rmu, guard, ...
      seed: the run's seed, as written in the results. It also draws `max_questions`.
      subset: SUBSET.json of a data folder is asked, such as "test", "validation" or "train".
      shots: how many of the attack's words an unsafe question is tried with.
      blank: the blank image of the alignment gap, "white", "black", "mean" or "noise".
      max_questions: at most this many records of each kind per file. None = all.
      sets: asks only these sets, such as ("unsafe_before", "utility"). Empty = all.
      safety, utility: public sets to ask as well, by their names in docs/datasets.md, such as ("xstest",).
      data_root: the folder that holds the public sets.
      defence: how the model is asked, a name of `defences.wrappers.DEFENCES`; `wording`: the defence's own words.
      question_kind: of a data file, the kind of rows that name none: "unsafe", "safe" or "general" (None).
      columns: of a data file, our name of a column -> the file's, such as {"question": "Goal"}.
      history: of dialogues, whose earlier answers stand before a question: the model's "own", or those of the "data".
      quantize: rounds the weights as storage in few bits would, such as "int4"; see `model.quantize`.
      turn: of dialogues, the question that an attack's word opens: "first", "last" or its number. None is the one that
        the words were searched in.
      batch_size: questions answered at a time. max_new_tokens: longest answer.
    """

    name: str = "model"
    kind: str = "base"
    seed: int = 0
    subset: str = "test"
    shots: int = 3
    blank: str = "white"
    max_questions: int | None = None
    sets: tuple[str, ...] = ()
    safety: tuple[str, ...] = ()
    utility: tuple[str, ...] = ()
    data_root: str | Path | None = None
    defence: str = VANILLA
    wording: Wording = Wording()
    question_kind: str | None = None
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    history: str = "own"
    turn: str | None = None
    quantize: str | None = None
    batch_size: int = 16
    max_new_tokens: int = 256


def evaluate(
    model: Model | str | Path | None,
    data: Suite | Records | str | Path | None,
    options: EvaluateOptions = EvaluateOptions(),
    *,
    judge: str | JudgeOptions | Judge | BatchJudge | None = None,
    guard: Guard | str | Path | None = None,
    attack_words: AttackWords | str | Path | None = None,
    baseline: Evaluation | str | Path | None = None,
    calibrate: Sequence[Labelled] | str | Path = (),
    workdir: str | Path | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measures a model: attack success, refusals, irrelevant answers, utility, the alignment gap.

        found = evaluate(model, "runs/mini/data", EvaluateOptions(max_new_tokens=32), judge="oracle")
        found.metric("asr_before").value

    Args:
      model: what `vlm_mu_jax.load` returns, or a model folder, which is loaded once all else has been checked. None
        judges the answers that `workdir` holds and generates nothing.
      data: a data folder (`test.json`, and `utility.json`, `text_harm.json`, `openings.json` if they are there), one
        file of questions in any form that `data.questions.read` knows, records, or a suite of questions. None for the
        public sets of the options alone. Reference answers are needed for utility only.
      judge: a name ("oracle", "refusal", "rules", ...), `JudgeOptions` for a judge that asks a model, or a judge of
        your own. None is the best judge that the data folder has.
      guard: steers the model. A folder, or without a workdir a guard as it was extracted.
      attack_words: words of an attack, or its attack.json: unsafe and harmless questions are then asked after the
        attack too.
      baseline: an evaluation, or its workdir, to test against question by question.
      calibrate: answers that people labelled, or their CSV file: the judge's agreement with them is measured, and rates
        are given corrected for its errors.
      workdir: keeps every answer in `answers/SET.jsonl` as it comes, so that a killed run goes on, and `results.json`
        beside it. Without it nothing is written.
      progress: shows progress; None is silent.

    Raises:
      InputError: something is missing or does not fit together. JobError: another process writes the workdir.
    """
    asked = resolve_suite(data, options, attack_words, _sees_images(model))
    scheme = None if options.quantize is None else Scheme.parse(options.quantize)
    before = None if baseline is None else baseline_answers(baseline, asked)
    labelled = calibration.read(calibrate) if isinstance(calibrate, str | Path) else list(calibrate)
    wrappers.check(options.defence)
    guard_folder.check(None if isinstance(guard, Guard) else guard)
    if model is not None:
        wrappers.check_guard(options.defence, guard)
    workdir = None if workdir is None else at_home(workdir)
    judges = choose(judge, asked.folder or options.data_root, workdir)
    if model is None:
        made = _stored(asked, workdir)
    else:
        model = model_folder.opened(model)
        model = model if scheme is None else model_folder.quantized(model, scheme)
        making = Making(options, judge, guard, calibrate, progress)
        made = answered(model, asked, making, workdir)
    answers = _judged(made.answers, asked, judges, workdir, model is None, progress)
    agreement = calibration.shipped(judges.counted.name)
    if labelled:
        agreement = calibration.calibrate(labelled, lambda cases: judge_many(judges.counted, cases, progress))
    run = RunName(options.name, options.kind, options.seed)
    found = summarise(run, answers, asked, judges.counted, made, agreement)
    if before is not None:
        found = dataclasses.replace(found, comparisons=against(found, *before, judges.counted))
    if workdir is not None:
        workdirs.write_results(workdir, found.to_dict())
    return found


def resolve_suite(
    data: Suite | Records | str | Path | None,
    options: EvaluateOptions,
    attack_words: AttackWords | str | Path | None = None,
    with_images: bool = True,
) -> Suite:
    """The questions that `evaluate` asks of `data` under these options, public sets included.

    Args:
      with_images: False for a text-only model, which is asked the text-only questions.

    Raises:
      InputError: a file is missing or bad, a set is unknown, or nothing is left to ask.
    """
    if isinstance(data, Suite):
        if attack_words is not None:
            raise InputError("a suite holds its attack words already; leave attack_words out")
        return data
    words = AttackWords() if attack_words is None else attack_words
    words = words if isinstance(words, AttackWords) else suites.read_attack_words(words)
    words = words if options.turn is None else dataclasses.replace(words, turn=options.turn)
    public = public_sets.checked(options.safety, options.utility, options.data_root)
    found = Suite(words=words) if data is None else _own_questions(data, options, words, with_images)
    found = suites.only(found, options.sets) if options.sets else found
    if public:
        limit, seed = options.max_questions, options.seed
        found = public_sets.extend(found, public, options.data_root, limit, seed, with_images)
    if not found.sets:
        raise InputError("there is nothing to ask; give data, or public sets with data_root")
    return found


def _sees_images(model: Model | str | Path | None) -> bool:
    if model is None:
        return True
    config = model.config if isinstance(model, Model) else model_folder.read_config(model_folder.find(model))
    return config.vision is not None


def _own_questions(
    data: Records | str | Path, options: EvaluateOptions, words: AttackWords, with_images: bool
) -> Suite:
    """The questions of a data folder, of one data file, or of records."""
    data = hub.local(data) if isinstance(data, str | Path) else data
    limit, seed = options.max_questions, options.seed
    asking = suites.Asking(words, options.shots, options.blank, limit, seed, options.history)
    if isinstance(data, Path) and not data.is_file():
        if options.question_kind or options.columns:
            raise InputError(
                f"--data={data}: --question_kind and --columns are for a file of questions; leave them out"
            )
        return suites.build(data, options.subset, asking, with_images)
    if isinstance(data, Records):
        records = data
    else:
        records = question_files.read(data, options.question_kind, options.columns)
    return suites.from_records(records, asking)


def _stored(suite: Suite, workdir: str | Path | None) -> Answered:
    if workdir is None:
        raise InputError("without a model only the answers of a workdir can be judged; give workdir")
    settings, origin = workdirs.read_workdir(workdir)
    answers = stored_answers(suite, workdir)
    said = wrappers.undefended(answers) if settings.get("defence") is None else None
    return Answered(answers, settings["max_new_tokens"], origin, said)


def _judged(
    answers: SuiteAnswers,
    suite: Suite,
    judges: ChosenJudges,
    workdir: str | Path | None,
    again: bool,
    progress: Progress | None,
) -> SuiteAnswers:
    """The answers labelled by all judges, and MM-Vet's graded by the judging model if there is one."""
    answers = judge_suite(answers, suite, judges.by_name, workdir, again=again, progress=progress)
    grader = mmvet.grader(judges.counted, workdir)
    if grader is None or mmvet.SET not in answers:
        return answers
    graded = {mmvet.SET: answers[mmvet.SET]}
    return answers | judge_suite(graded, suite, {grader.name: grader}, workdir, again=again, progress=progress)
