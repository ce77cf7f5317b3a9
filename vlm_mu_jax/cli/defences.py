"""Compares defences against harmful requests: one table over instruction settings and image conditions.

A defence is vanilla, self_reminder, goal_priority, ecso, adashield, text_first, erase_and_check, gate_and_check, coca,
guard, another guard's name or unlearned, or some of them joined by "+". Each is asked the requests of --data directly,
inside jailbreak templates, where the image is needed, and after a one-word attack; every time with text only, a blank
image and its own image. Attack success, over-refusal, utility and perplexity come with 95 % intervals; every defence
is tested against the first one, question by question. A killed run goes on.

An attack made for the undefended model flatters a guard. --adaptive searches words through each defence, guard and
all, and asks the language model alone the same prompts as text. --attack_words gives words of bin/attack. Writes
WORKDIR/NAME/ as bin/eval does, WORKDIR/defences.json for bin/report and WORKDIR/defences.md.

Example:
  bin/defences --checkpoint=runs/base --guard=runs/guard --unlearned=runs/npo --data=runs/mini/data \\
      --workdir=runs/defences --defences=vanilla,self_reminder,ecso,guard,unlearned \\
      --adaptive
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from vlm_mu_jax.cli import command, judge_flags, mesh_flag, named_paths, shared_flags
from vlm_mu_jax.errors import InputError

if TYPE_CHECKING:
    from vlm_mu_jax.evaluation.defences.comparison import DefenceOptions

flags.adopt_module_key_flags(judge_flags)
flags.adopt_module_key_flags(mesh_flag)
_CHECKPOINT = shared_flags.checkpoint()
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
_GUARD = flags.DEFINE_multi_string(
    "guard", [], "guard folder of --checkpoint, for the part guard; NAME=FOLDER for a further part NAME"
)
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
    "attack_words", [], "attack.json of bin/attack for all defences, or DEFENCE=attack.json for one"
)
_ADAPTIVE = flags.DEFINE_bool(
    "adaptive",
    False,
    "search words through each defence, guard and all, on the requests of text_harm_validation.json; "
    "--attack_words=DEFENCE=FILE keeps those of a file for one",
)
_SHOTS = flags.DEFINE_integer("shots", 3, "how many of an attack's words a request is tried with", lower_bound=1)
_SETTINGS = flags.DEFINE_list(
    "settings", [], "ask only these: direct, template, image_needed, one_word (default: all there is)"
)
_IMAGES = flags.DEFINE_list("images", [], "ask only these: text_only, blank_image, own_image (default: all)")
_BLANK = shared_flags.blank()
_PERPLEXITY = flags.DEFINE_bool("perplexity", True, "score every answer with a language model")
_PERPLEXITY_MODEL = flags.DEFINE_string(
    "perplexity_model", None, "model folder that scores answers (default: the language tower of --checkpoint)"
)
_TOKENS = shared_flags.max_new_tokens(256)
_BATCH = shared_flags.batch_size(16)
_LIMIT = shared_flags.max_questions()
_SEED = shared_flags.seed()


def main(argv: list[str]) -> None:
    from vlm_mu_jax import progress
    from vlm_mu_jax.attacks.words.defended import defended_words
    from vlm_mu_jax.evaluation.defences.comparison import DefendedModels, compare_defences
    from vlm_mu_jax.storage import model_folder

    named = named_paths.by_name("--guard", _GUARD.value, lambda _: "guard")
    models = DefendedModels(
        _CHECKPOINT.value,
        named.pop("guard", None),
        _UNLEARNED.value,
        _UNLEARNED_GUARD.value,
        _PERPLEXITY_MODEL.value,
        named,
    )
    options, judge = _options_from_flags(), judge_flags.options_from_flags()
    words = _words_of(_WORDS.value, _DEFENCES.value)
    model_folder.find(_CHECKPOINT.value)  # told before anything is made
    command.prepare_jax(_WORKDIR.value)
    given = {"judge": judge, "workdir": _WORKDIR.value, "say": command.say, "progress": progress.bar}
    with mesh_flag.placed(mesh_flag.sizes_from_flags(), _BATCH.value, _TOKENS.value):
        if _ADAPTIVE.value:
            others = [name for name in _DEFENCES.value if name not in words]
            words = defended_words(models, _DATA.value, others, options, **given) | words
        found = compare_defences(models, _DATA.value, _DEFENCES.value, options, attack_words=words, **given)
    found.save(_WORKDIR.value)
    print(found.table())
    print(f"judge: {found.judge}; percent of questions; perplexity under {found.perplexity_model or 'no model'}")


def _options_from_flags() -> "DefenceOptions":
    """What the flags ask for."""
    from vlm_mu_jax.evaluation.defences.comparison import DefenceOptions
    from vlm_mu_jax.evaluation.defences.instruction_settings import IMAGES, SETTINGS, read_templates
    from vlm_mu_jax.evaluation.defences.wrappers import Wording, read_wording

    return DefenceOptions(
        settings=tuple(_SETTINGS.value) or SETTINGS,
        images=tuple(_IMAGES.value) or IMAGES,
        templates=read_templates(_TEMPLATES.value) if _TEMPLATES.value else None,
        shots=_SHOTS.value,
        blank=_BLANK.value,
        max_questions=_LIMIT.value,
        seed=_SEED.value,
        wording=read_wording(_PROMPTS.value) if _PROMPTS.value else Wording(),
        perplexity=_PERPLEXITY.value,
        batch_size=_BATCH.value,
        max_new_tokens=_TOKENS.value,
    )


def _words_of(flag_values: Iterable[str], names: Iterable[str]) -> dict[str, Path]:
    """Defence -> its attack.json, from values FILE (all defences) and NAME=FILE. Raises InputError for another NAME."""
    names, found = list(names), {}
    for value in flag_values:
        name, path = named_paths.split(value)
        if name is None:
            found = dict.fromkeys(names, Path(path)) | found
        elif name in names:
            found[name] = Path(path)
        else:
            raise InputError(f"--attack_words={value}: no defence {name!r} here; use FILE or one of {', '.join(names)}")
    return found


if __name__ == "__main__":
    command.run(main, __doc__)
