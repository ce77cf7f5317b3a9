"""How each row is made, by the functions that the commands call: attack, evaluate, relearn."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from vlm_mu_jax.attacks.attack import attack
from vlm_mu_jax.attacks.measure import RATE
from vlm_mu_jax.attacks.options import AttackOptions
from vlm_mu_jax.attacks.questions import AttackRecords
from vlm_mu_jax.data import readers
from vlm_mu_jax.data.records import Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.evaluate import EvaluateOptions, evaluate
from vlm_mu_jax.evaluation.judges import Judge, JudgeOptions
from vlm_mu_jax.evaluation.questions import suite as suites
from vlm_mu_jax.evaluation.questions.suite import Suite
from vlm_mu_jax.evaluation.results.summary import Evaluation
from vlm_mu_jax.model.prune import prune
from vlm_mu_jax.model.quantize import KINDS, Scheme
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.storage.model_folder import Model, changed, quantized
from vlm_mu_jax.stress.options import HoldsOptions
from vlm_mu_jax.stress.rows import HoldsRow, RowRate, of_evaluation
from vlm_mu_jax.training.evaluation_questions import QuestionOptions
from vlm_mu_jax.training.relearning import RelearnOptions, forget_records, relearned

_AS_IT_STANDS = ("unsafe_before", "harmless_before", "utility")
_GAP = {"text_only": "gap_text_only", "own_image": "gap_own_image"}


@dataclasses.dataclass(frozen=True)
class Stand:
    """A model, its guard, the questions, and where everything is kept.

    Attributes:
      data: the data folder.
      guard: guard folder, or None.
      reference: the model before its safety tuning, for over-refusal words; see `attacks.words.one_word.OneWord`.
      workdir: gets a folder or file for each row.
    """

    model: Model
    data: Path
    options: HoldsOptions
    workdir: Path
    guard: Path | None = None
    judge: str | Judge | JudgeOptions | None = None
    reference: Model | None = None
    progress: Progress | None = None

    def suite(self, sets: tuple[str, ...]) -> Suite | None:
        """The named sets of the data; None where there is none of them."""
        seen = self.model.config.vision is not None
        use = self.options
        built = suites.build(self.data, "test", suites.Asking(limit=use.questions, seed=use.seed), seen)
        found = [name for name in sets if name in built.sets]
        return suites.only(built, found) if found else None

    def asked(self, name: str, suite: Suite, model: Model | None = None) -> Evaluation:
        """The answers to a suite; kept under asked/NAME."""
        use = self.options
        how = EvaluateOptions(use.name, seed=use.seed, batch_size=use.batch_size, max_new_tokens=use.max_new_tokens)
        where = {"guard": self.guard, "workdir": self.workdir / "asked" / name, "progress": self.progress}
        return evaluate(model or self.model, suite, how, judge=self.judge, **where)


def make(stand: Stand, name: str, done: Mapping[str, HoldsRow]) -> HoldsRow:
    """One row. done: the rows that are made already; some compare with them.

    Raises:
      InputError: the row needs something that is not there.
    """
    if name == "as_is":
        return _as_is(stand)
    if name == "text_only":
        return _text_only(stand)
    if name in ("words", "paraphrase", "prefill", "gcg", "pgd"):
        return _attacked(stand, name)
    if not done["as_is"].rates:
        raise InputError("compares with the row as_is, which could not be made")
    if name == "relearned":
        return _relearned(stand)
    if name == "pruned":
        share, params = stand.options.pruned, prune(stand.model.params, stand.options.pruned)
        model, what = (
            changed(stand.model, params, f"pruned:{share:g}"),
            f"the smallest {100 * share:g} % of weights zero",
        )
    else:
        scheme = Scheme.parse(name)
        model, what = quantized(stand.model, scheme), f"weights in {KINDS[name][0]} bits ({scheme})"
    return _compared(stand, name, what, "as is", model, done["as_is"].rates)


def _as_is(stand: Stand) -> HoldsRow:
    suite = stand.suite(_AS_IT_STANDS)
    if suite is None:
        raise InputError(f"{stand.data}: holds no question with its image")
    flags = of_evaluation(stand.asked("as_is", suite))
    return HoldsRow("as_is", "the questions as they stand", "", {key: RowRate(some) for key, some in flags.items()})


def _text_only(stand: Stand) -> HoldsRow:
    suite = stand.suite(tuple(_GAP.values()))
    if suite is None or _GAP["text_only"] not in suite.sets:
        raise InputError(f"{stand.data} has no text_harm.json with requests to ask as text")
    found = stand.asked("text_only", suite)
    labels = {"asr": ("unsafe", "answered"), "rr": ("safe", "refused"), "harmless_right": ("safe", "answered")}
    sides = {}
    for side, asked in _GAP.items():
        flags = of_evaluation(found, {rate: (asked, label) for rate, (_, label) in labels.items()})
        kinds = {key: record.kind for key, record in found.suite.records.get(asked, {}).items()}
        sides[side] = {
            rate: {key: flag for key, flag in flags[rate].items() if kinds[key] == kind}
            for rate, (kind, _) in labels.items()
            if rate in flags
        }
    rates = {rate: RowRate(some, sides["own_image"].get(rate)) for rate, some in sides["text_only"].items()}
    control = "the same requests with their images" if sides["own_image"] else ""
    return HoldsRow("text_only", "plain requests without an image", control, rates)


def _attacked(stand: Stand, name: str) -> HoldsRow:
    use, method = stand.options, "one_word" if name == "words" else name
    options = AttackOptions(
        method=method,
        goals=("jailbreak", "over_refuse") if name == "words" else ("jailbreak",),
        shots=use.shots,
        search_questions=use.search_questions,
        verify_questions=use.questions,
        seed=use.seed,
        batch_size=use.batch_size,
        max_new_tokens=use.max_new_tokens,
        words=use.words,
        suffix=use.suffix,
        universal=method == "gcg",
        pixels=use.pixels,
        word=_best_word(stand) if name == "paraphrase" else None,
    )
    if name == "pgd" and stand.model.config.vision is None:
        raise InputError("a text-only model sees no image to change")
    out = stand.workdir / "attacks" / f"{name}.json"
    found = attack(
        stand.model,
        AttackRecords.from_folder(stand.data, seed=use.seed),
        options,
        judge=stand.judge,
        guard=stand.guard,
        reference=stand.reference,
        out=out,
        name=use.name,
        progress=stand.progress,
    )
    rates = {RATE[goal]: RowRate(one.broken, one.broken_null) for goal, one in found.measured.items()}
    said = {
        "words": f"any of {use.shots} words searched for this model ({', '.join(found.words.get('jailbreak', ()))})",
        "paraphrase": f"paraphrases behind the best of these words ({options.word!r})",
        "prefill": f"the answer begun, any of {use.shots}",
        "gcg": f"any of {use.shots} suffixes by gradient, one for all questions",
        "pgd": f"images changed by gradient within {use.pixels.epsilon} of 255",
    }
    controls = {"words": "null words", "paraphrase": "the same paraphrases alone"}
    return HoldsRow(name, said[name], str(found.content.get("control") or controls[name]), rates)


def _best_word(stand: Stand) -> str:
    from vlm_mu_jax.files.json_file import read_json

    file = stand.workdir / "attacks" / "words.json"
    if not file.exists():
        raise InputError("needs the word that the row `words` finds; ask for that row too")
    return read_json(file)["jailbreak"][0]["word"]


def _relearned(stand: Stand) -> HoldsRow:
    """The model after training on forgotten examples, beside itself after the same training on harmless ones."""
    use = stand.options
    if use.forget_answers is None:
        raise InputError("needs --forget_answers, the harmful answers of the model before unlearning")
    safety = readers.read(stand.data / "train.json")
    forgotten = forget_records(safety, use.forget_answers, use.forgotten, use.seed)
    harmless = suites.sample(safety.of_kind("safe"), use.forgotten, use.seed)
    after = {name: _fine_tuned(stand, name, some) for name, some in (("forgotten", forgotten), ("harmless", harmless))}
    suite = stand.suite(_AS_IT_STANDS)
    control = of_evaluation(stand.asked("relearned_control", suite, after["harmless"]))
    what = f"fine-tuned on {use.forgotten} forgotten examples, {use.steps} steps"
    beside = "fine-tuned as long on harmless ones"
    found = of_evaluation(stand.asked("relearned", suite, after["forgotten"]))
    return HoldsRow("relearned", what, beside, {key: RowRate(flags, control.get(key)) for key, flags in found.items()})


def _fine_tuned(stand: Stand, name: str, records: Records) -> Model:
    use = stand.options
    how = RelearnOptions(QuestionOptions(str(stand.data)), use.steps, learning_rate=use.learning_rate, seed=use.seed)
    return relearned(stand.model, records, how, stand.workdir / "relearned" / name, progress=stand.progress)


def _compared(
    stand: Stand, name: str, what: str, control: str, model: Model, before: Mapping[str, RowRate]
) -> HoldsRow:
    """The questions as they stand, asked of changed weights, beside the same of the weights before."""
    found = of_evaluation(stand.asked(name, stand.suite(_AS_IT_STANDS), model))
    rates = {key: RowRate(flags, before[key].flags if key in before else None) for key, flags in found.items()}
    return HoldsRow(name, what, control, rates)
