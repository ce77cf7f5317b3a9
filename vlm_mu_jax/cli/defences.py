"""Compares defences against harmful requests: one table over instruction settings and image conditions.

A defence is vanilla, self_reminder, goal_priority, ecso, guard or unlearned, or some of them joined by "+". Each is
asked the requests of --data directly, inside jailbreak templates, where the image is needed, and after a one-word
attack; every time with text only, a blank image and its own image. Attack success, over-refusal, utility and perplexity
come with 95 % intervals; every defence is tested against the first one, question by question. A killed run goes on.

An attack made for the undefended model flatters a guard: search words against the guarded model (bin/attack --guard)
and give them as --attack_words=guard=FILE. Writes WORKDIR/NAME/ as bin/eval does, WORKDIR/defences.json for
bin/report and WORKDIR/defences.md.

Example:
  bin/defences --checkpoint=runs/base --guard=runs/guard --unlearned=runs/npo --data=runs/mini/data \\
      --workdir=runs/defences --defences=vanilla,self_reminder,ecso,guard,unlearned \\
      --attack_words=runs/attack_sft.json --attack_words=guard=runs/attack_guard.json
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from absl import flags

from vlm_mu_jax.cli import command, judge_flags
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files import outputs
from vlm_mu_jax.files.json_file import write_json

flags.adopt_module_key_flags(judge_flags)
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "model folder", required=True)
_DATA = flags.DEFINE_string(
    "data",
    None,
    "folder with text_harm.json (direct requests), image_needed.json or test.json, utility.json",
    required=True,
)
_WORKDIR = flags.DEFINE_string("workdir", None, "folder for answers and results", required=True)
_DEFENCES = flags.DEFINE_list(
    "defences", ["vanilla", "self_reminder", "goal_priority", "ecso"], "defences to compare; the first is the baseline"
)
_GUARD = flags.DEFINE_string("guard", None, "guard folder of --checkpoint, for the part guard")
_UNLEARNED = flags.DEFINE_string("unlearned", None, "model folder, for the part unlearned")
_UNLEARNED_GUARD = flags.DEFINE_string(
    "unlearned_guard", None, "guard folder of --unlearned, for unlearned+guard: directions belong to their weights"
)
_PROMPTS = flags.DEFINE_string(
    "defence_prompts", None, "JSON that replaces the wording of defences; see docs/defences.md"
)
_TEMPLATES = flags.DEFINE_string(
    "jailbreak_templates",
    None,
    "JSON object of templates with {question} (default: jailbreak_templates.json of --data, if there)",
)
_WORDS = flags.DEFINE_multi_string(
    "attack_words", [], "attack.json of bin/attack for all defences, or DEFENCE=attack.json for one; repeatable"
)
_SHOTS = flags.DEFINE_integer("shots", 3, "how many of an attack's words a request is tried with", lower_bound=1)
_SETTINGS = flags.DEFINE_list(
    "settings", [], "ask only these: direct, template, image_needed, one_word (default: all there is)"
)
_IMAGES = flags.DEFINE_list("images", [], "ask only these: text_only, blank_image, own_image (default: all)")
_BLANK = flags.DEFINE_enum("blank", "white", ["white", "black", "mean", "noise"], "kind of the blank image")
_PERPLEXITY = flags.DEFINE_bool("perplexity", True, "score every answer with a language model")
_PERPLEXITY_MODEL = flags.DEFINE_string(
    "perplexity_model", None, "model folder that scores answers (default: the language tower of --checkpoint)"
)
_TOKENS = flags.DEFINE_integer("max_new_tokens", 256, "longest answer, in tokens", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 16, "questions answered at a time", lower_bound=1)
_LIMIT = flags.DEFINE_integer(
    "max_questions", None, "at most this many records of each kind per file, drawn by --seed", lower_bound=1
)
_SEED = flags.DEFINE_integer("seed", 0, "the run's seed, as written in the results; also draws --max_questions")


def main(argv: list[str]) -> None:
    from vlm_mu_jax.evaluation.defences import runs
    from vlm_mu_jax.evaluation.defences import table as tables

    chosen = runs.parse(_DEFENCES.value)
    guards = _check(chosen)
    command.enable_compilation_cache(_WORKDIR.value)
    suites = _suites(chosen, guards)
    models = _Models()
    plan = _plan(models)
    rows: list[dict[str, Any]] = []
    tests: list[dict[str, Any]] = []
    first: dict[str, Any] = {}
    for defence in chosen:
        print(f"{defence.name}:", flush=True)
        folder = _UNLEARNED.value if defence.unlearned else _CHECKPOINT.value
        entry, judged = runs.run(models.get(folder), defence, guards[defence.name], suites[defence.name], plan)
        own = tables.compare(defence.name, judged, chosen[0].name, first, plan.judge.name) if rows else []
        first = first or judged
        runs.write(plan, entry, own)
        rows.append(entry)
        tests += own
    table = tables.markdown(rows)
    about = {
        "blank": _BLANK.value,
        "judge": plan.judge.name,
        "perplexity_model": plan.perplexity.name if plan.perplexity else None,
    }
    content = {"schema": 1, **about, "rows": rows, "comparisons": tests}
    write_json(plan.workdir / "defences.json", content)
    outputs.check_writable(plan.workdir / "defences.md").write_text(table + "\n", encoding="utf-8")
    print(table)
    print(f"judge: {plan.judge.name}; percent of questions; perplexity under {about['perplexity_model'] or 'no model'}")


def _check(chosen) -> dict[str, str | None]:
    """Everything that can be wrong before a model is loaded; the guard folder of each defence."""
    from vlm_mu_jax.evaluation.defences import wrappers
    from vlm_mu_jax.storage import model_folder

    judge_flags.refuse_calibration()
    if _PROMPTS.value:
        wrappers.read_wording(_PROMPTS.value)
    guards: dict[str, str | None] = {}
    for defence in chosen:
        if defence.unlearned and not _UNLEARNED.value:
            raise InputError(f"--defences={defence.name} needs --unlearned, the model folder of the unlearned model")
        flag = _UNLEARNED_GUARD if defence.unlearned else _GUARD
        if defence.guarded and not flag.value:
            raise InputError(
                f"--defences={defence.name} needs --{flag.name}; a guard belongs to the weights it was extracted from"
            )
        guards[defence.name] = flag.value if defence.guarded else None
    for folder in filter(None, (_CHECKPOINT.value, _UNLEARNED.value, _PERPLEXITY_MODEL.value)):
        model_folder.find(folder)
    return guards


def _suites(chosen, guards) -> dict[str, Any]:
    """The questions of each defence: the same for all but for the words of a one-word attack."""
    from vlm_mu_jax.evaluation.defences import instruction_settings, runs
    from vlm_mu_jax.evaluation.questions import suite
    from vlm_mu_jax.storage import model_folder

    words = _words_of(_WORDS.value, [defence.name for defence in chosen])
    default = Path(_DATA.value) / instruction_settings.TEMPLATES
    templates = _TEMPLATES.value or (default if default.exists() else None)
    templates = instruction_settings.read_templates(templates) if templates else ()
    has_vision = model_folder.read_config(model_folder.find(_CHECKPOINT.value)).vision is not None
    found = {}
    for defence in chosen:
        path = words.get(defence.name)
        shots = suite.read_attack_words(path).jailbreak[: _SHOTS.value] if path else ()
        asked = instruction_settings.build(
            _DATA.value,
            instruction_settings.Attacks(templates, shots),
            _SETTINGS.value or instruction_settings.SETTINGS,
            _IMAGES.value or instruction_settings.IMAGES,
            _BLANK.value,
            _LIMIT.value,
            _SEED.value,
            has_vision,
        )
        found[defence.name], left_out = runs.unseen(asked, guards.values())
    if left_out:
        print(f"{left_out} requests are left out: the selection of the guard has seen them")
    return found


def _words_of(flag_values: Iterable[str], names: Iterable[str]) -> dict[str, Path]:
    """Defence -> its attack.json, from values FILE (all defences) and NAME=FILE. Raises InputError for another NAME."""
    names, found = list(names), {}
    for value in flag_values:
        name, equals, path = value.partition("=")
        if equals and name in names:
            found[name] = Path(path)
        elif equals and not Path(value).exists():
            raise InputError(f"--attack_words={value}: no defence {name!r} here; use FILE or one of {', '.join(names)}")
        else:
            found = dict.fromkeys(names, Path(value)) | found
    return found


def _plan(models: "_Models") -> Any:
    from vlm_mu_jax import progress
    from vlm_mu_jax.evaluation.answers.asking import AnswerOptions
    from vlm_mu_jax.evaluation.defences import runs, wrappers
    from vlm_mu_jax.evaluation.perplexity import Perplexity

    judges = judge_flags.chosen(_DATA.value, _WORKDIR.value)
    scorer = Perplexity(models.get(_PERPLEXITY_MODEL.value or _CHECKPOINT.value), _BATCH.value)
    return runs.DefencePlan(
        workdir=Path(_WORKDIR.value),
        data=Path(_DATA.value),
        judges=judges.by_name,
        judge=judges.counted,
        wording=wrappers.read_wording(_PROMPTS.value) if _PROMPTS.value else wrappers.Wording(),
        answering=AnswerOptions(_BATCH.value, _TOKENS.value, progress=progress.bar),
        seed=_SEED.value,
        perplexity=scorer if _PERPLEXITY.value else None,
    )


class _Models:
    """Model folders, each loaded once."""

    def __init__(self):
        self._loaded: dict[str, Any] = {}

    def get(self, folder: str) -> Any:
        from vlm_mu_jax.storage import model_folder

        path = str(model_folder.find(folder))
        if path not in self._loaded:
            self._loaded[path] = model_folder.load(path)
        return self._loaded[path]


if __name__ == "__main__":
    command.run(main, __doc__)
