"""Several defences of one model, measured on the same questions and tested against the first.

found = compare_defences(
    DefendedModels("runs/base", guard="runs/guard"), "runs/mini/data", ["vanilla", "self_reminder", "guard"]
)
print(found.table())
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers.asking import AnswerOptions
from vlm_mu_jax.evaluation.defences import instruction_settings, runs, wrappers
from vlm_mu_jax.evaluation.defences import table as tables
from vlm_mu_jax.evaluation.defences.runs import Defence, DefencePlan
from vlm_mu_jax.evaluation.defences.wrappers import Wording
from vlm_mu_jax.evaluation.judges import BatchJudge, Judge, JudgeOptions, choose
from vlm_mu_jax.evaluation.perplexity import Perplexity
from vlm_mu_jax.evaluation.questions import suite as suites
from vlm_mu_jax.evaluation.questions.suite import AttackWords, Suite
from vlm_mu_jax.files.json_file import write_json
from vlm_mu_jax.files.outputs import write_text
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.steering import guard_folder
from vlm_mu_jax.storage import model_folder
from vlm_mu_jax.storage.model_folder import Model

SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class DefendedModels:
    """The folders that the parts of a defence refer to.

    Attributes:
      checkpoint: the model that is defended.
      guard: its guard folder, for the part `guard`.
      unlearned: the unlearned model, for the part `unlearned`.
      unlearned_guard: a guard folder of the unlearned model. Directions belong to the weights they were extracted from.
      guards: further guard folders of the checkpoint, by the name of their part.
      perplexity: the model that scores answers, None = the language tower of `checkpoint`.
    """

    checkpoint: str | Path
    guard: str | Path | None = None
    unlearned: str | Path | None = None
    unlearned_guard: str | Path | None = None
    perplexity: str | Path | None = None
    guards: Mapping[str, str | Path] = dataclasses.field(default_factory=dict)

    def guard_of(self, defence: Defence) -> str | Path | None:
        """The guard folder of a defence. Raises InputError when a folder that its parts need is missing."""
        if defence.unlearned and not self.unlearned:
            raise InputError(f"--defences={defence.name} needs --unlearned, the model folder of the unlearned model")
        if defence.guard is None:
            return None
        if defence.guard != runs.GUARD:
            if defence.unlearned:
                raise InputError(f"--defences={defence.name}: {defence.guard} belongs to --checkpoint; leave one out")
            return self.guards[defence.guard]
        name = "unlearned_guard" if defence.unlearned else "guard"
        if not getattr(self, name):
            raise InputError(
                f"--defences={defence.name} needs --{name}; a guard belongs to the weights it was extracted from"
            )
        return getattr(self, name)


@dataclasses.dataclass(frozen=True)
class DefenceOptions:
    """What every defence is asked, and how.

    Attributes:
      settings, images: instruction settings and image conditions; see `instruction_settings`.
      templates: (name, text with {question}) of jailbreak templates. None = the data folder's jailbreak_templates.json.
      shots: how many of an attack's words a request is tried with.
      blank: kind of the blank image.
      max_questions: at most this many records of each kind per file. None = all.
      seed: the run's seed, as written in the results. It also draws `max_questions`.
      wording: the defences' own words.
      perplexity: whether every answer is scored with a language model.
      batch_size: questions answered at a time. max_new_tokens: longest answer.
    """

    settings: tuple[str, ...] = instruction_settings.SETTINGS
    images: tuple[str, ...] = instruction_settings.IMAGES
    templates: tuple[tuple[str, str], ...] | None = None
    shots: int = 3
    blank: str = "white"
    max_questions: int | None = None
    seed: int = 0
    wording: Wording = Wording()
    perplexity: bool = True
    batch_size: int = 16
    max_new_tokens: int = 256


@dataclasses.dataclass(frozen=True)
class DefenceComparison:
    """What `compare_defences` found. `to_dict()` is the content of `defences.json`.

    Attributes:
      rows: an entry of results.json per defence, with its facts under "defence".
      comparisons: paired tests of every other defence against the first.
      judge, blank, perplexity_model: who judged, which blank image was shown, who scored.
    """

    rows: Sequence[Mapping[str, Any]]
    comparisons: Sequence[Mapping[str, Any]]
    judge: str
    blank: str
    perplexity_model: str | None

    def table(self) -> str:
        """The Markdown table, a row per defence."""
        return tables.markdown(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """The content of `defences.json`."""
        about = {"blank": self.blank, "judge": self.judge, "perplexity_model": self.perplexity_model}
        return {"schema": SCHEMA, **about, "rows": list(self.rows), "comparisons": list(self.comparisons)}

    def save(self, folder: str | Path) -> None:
        """Writes defences.json and defences.md."""
        write_json(Path(folder) / "defences.json", self.to_dict())
        write_text(Path(folder) / "defences.md", self.table() + "\n")


def compare_defences(
    models: DefendedModels,
    data: str | Path,
    defences: Sequence[str],
    options: DefenceOptions = DefenceOptions(),
    *,
    judge: str | JudgeOptions | Judge | BatchJudge | None = None,
    attack_words: Mapping[str, AttackWords | str | Path] | None = None,
    workdir: str | Path | None = None,
    say: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> DefenceComparison:
    """Asks, judges and scores every defence, and tests each against the first.

    Args:
      defences: names, each one or several of vanilla, self_reminder, goal_priority, ecso, adashield, text_first,
        erase_and_check, gate_and_check, coca, a guard's name and unlearned, joined by "+". The first is the baseline.
      judge: whose labels count; see `judges.choose`.
      attack_words: by the defence's name, the words of a one-word attack against it.
      workdir: keeps WORKDIR/NAME/ as an evaluation's, so that a killed run goes on. Without it nothing is written.
      say: called with each line for a log.

    Raises:
      InputError: an unknown defence, a folder that its parts need is missing, or nothing is left to ask.
    """
    chosen = runs.parse(defences, models.guards)
    guards = {defence.name: models.guard_of(defence) for defence in chosen}
    for folder in filter(None, (models.checkpoint, models.unlearned, models.perplexity)):
        model_folder.find(folder)
    guard_folder.check(models.guard, models.unlearned_guard, *models.guards.values())
    for defence in chosen:
        wrappers.check_guard(defence.wrapper, guards[defence.name])
    tell = say or (lambda _: None)
    questions = _questions(models, Path(data), chosen, guards, options, attack_words or {}, tell)
    judges = choose(judge, data, workdir)
    loaded = _Loaded()
    scorer = None
    if options.perplexity:
        scorer = Perplexity(loaded.get(models.perplexity or models.checkpoint), options.batch_size)
    plan = DefencePlan(
        workdir=None if workdir is None else Path(workdir),
        data=Path(data),
        judges=judges.by_name,
        judge=judges.counted,
        wording=options.wording,
        answering=AnswerOptions(options.batch_size, options.max_new_tokens, progress=progress),
        seed=options.seed,
        perplexity=scorer,
    )
    rows, tests, first = [], [], {}
    for defence in chosen:
        tell(f"{defence.name}:")
        model = loaded.get(models.unlearned if defence.unlearned else models.checkpoint)
        entry, judged = runs.run(model, defence, guards[defence.name], questions[defence.name], plan)
        if too_long := entry["unjudged"].get("too_long"):
            tell(f"not asked, because they are too long for the model: {too_long} questions; no rate counts them")
        own = tables.compare(defence.name, judged, chosen[0].name, first, plan.judge.name) if rows else []
        first = first or judged
        runs.write(plan, entry, own)
        rows.append(entry)
        tests += own
    return DefenceComparison(rows, tests, plan.judge.name, options.blank, scorer and scorer.name)


def _questions(
    models: DefendedModels,
    data: Path,
    chosen: Sequence[Defence],
    guards: Mapping[str, str | Path | None],
    options: DefenceOptions,
    attack_words: Mapping[str, AttackWords | str | Path],
    tell: Callable[[str], None],
) -> dict[str, Suite]:
    """The questions of each defence: the same for all but for the words of a one-word attack."""
    templates, default = options.templates, data / instruction_settings.TEMPLATES
    if templates is None:
        templates = instruction_settings.read_templates(default) if default.exists() else ()
    has_vision = model_folder.read_config(model_folder.find(models.checkpoint)).vision is not None
    found, left_out = {}, 0
    for defence in chosen:
        words = attack_words.get(defence.name, AttackWords())
        words = words if isinstance(words, AttackWords) else suites.read_attack_words(words)
        asked = instruction_settings.build(
            data,
            instruction_settings.AttackShots(templates, words.jailbreak[: options.shots]),
            options.settings,
            options.images,
            options.blank,
            options.max_questions,
            options.seed,
            has_vision,
        )
        found[defence.name], left_out = runs.unseen(asked, guards.values())
    if left_out:
        tell(f"{left_out} requests are left out: the selection of the guard has seen them")
    return found


class _Loaded:
    """Model folders, each loaded once."""

    def __init__(self):
        self._models: dict[str, Model] = {}

    def get(self, folder: str | Path) -> Model:
        path = str(model_folder.find(folder))
        if path not in self._models:
            self._models[path] = model_folder.load(path)
        return self._models[path]
