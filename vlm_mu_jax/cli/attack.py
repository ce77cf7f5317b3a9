"""Attacks a model: finds what makes it answer what it refuses, or refuse what it should answer.

The word search (--method=one_word) tries every word of a vocabulary at every position in the questions and ranks it by
the model's own refusal margin. The best words are then measured with real answers on questions the search never saw,
beside null words as a control. Other methods: a suffix by gradient (gcg) or blindly (random), for every question or one
for all (--universal), a begun answer (prefill), paraphrases with and without a word, and images (pgd within a bound,
blank, noise, typographic); each is measured with real answers beside a control. A killed attack continues
where it was when it is started again.

Example:
  bin/attack --checkpoint=runs/sft --data=runs/mini/data --out=runs/attack_sft/attack.json
  bin/attack ... --out=attack.json --shard=3/16     (one of 16 jobs; then bin/attack ... --out=attack.json --join)
  bin/attack --checkpoint=runs/sft --data=mine.txt --kind=unsafe --goal=jailbreak --openings=no.txt --out=attack.json
"""

from typing import TYPE_CHECKING

from absl import flags

from vlm_mu_jax.cli import (
    attack_methods,
    cluster,
    command,
    judge_flags,
    mesh_flag,
    quantize_flag,
    shard_flags,
    shared_flags,
)
from vlm_mu_jax.files import outputs
from vlm_mu_jax.files.paths import resolved

if TYPE_CHECKING:
    from vlm_mu_jax.attacks.options import AttackOptions

_METHOD = flags.DEFINE_enum("method", "one_word", ["one_word", *attack_methods.METHODS], "what is tried")
_CHECKPOINT = shared_flags.checkpoint()
_DATA = flags.DEFINE_string(
    "data",
    None,
    "folder with train.json and test.json (VLGuard), or a file of questions (TXT, CSV, TSV, JSON, JSON lines, Parquet):"
    " one half is searched, the other verified; without reference answers it needs --openings",
    required=True,
)
_KIND = flags.DEFINE_string("kind", None, "with a file as --data, the kind of rows that name none: unsafe or safe")
_COLUMNS = shared_flags.columns()
_OUT = flags.DEFINE_string(
    "out",
    None,
    "JSON file to write; scores and answers go beside it, into NAME.margins.jsonl and NAME.answers.jsonl",
    required=True,
)
_WORDS = flags.DEFINE_string(
    "words",
    "pieces",
    "candidates: english:N (the N most frequent words, or CODE:N of another language), pieces (every piece of the"
    " tokenizer that begins a word), audit (first words of the safety data's questions), audit:FILE (those of a file of"
    " bin/audit), or a file of words",
)
_POSITIONS = flags.DEFINE_list(
    "positions",
    ["question_start"],
    "where the word is put: some of question_start, question_end, after_image, response_prefix (what the answer starts"
    " with); searched together, reported apart",
)
_MODE = flags.DEFINE_enum(
    "mode",
    "swap",
    ["swap", "insert"],
    "replace the question's first (or last) word, or put the word before (or behind) it; after_image and"
    " response_prefix replace nothing",
)
_GOAL = flags.DEFINE_enum("goal", "both", ["both", "jailbreak", "over_refuse"], "what the words should do")
_TURN = flags.DEFINE_string(
    "turn",
    "first",
    "which question of a conversation is attacked: first, last, or its number from 1. Earlier turns stay before it as"
    " the data have them, later ones are left out",
)
_SHOTS = flags.DEFINE_integer("shots", 3, "how many different words a question is tried with", lower_bound=1)
_SEARCH = flags.DEFINE_integer("search_questions", 32, "questions per goal that the search uses", lower_bound=1)
_VERIFY = flags.DEFINE_integer(
    "verify_questions", None, "at most this many questions per goal for the verification (default: all)", lower_bound=1
)
_SPLIT = flags.DEFINE_enum(
    "search_split",
    "auto",
    ["auto", "train", "validation", "test"],
    "where the search looks for words: train.json or validation.json (verified on test.json), or one half of test.json"
    " (verified on the other); auto takes validation.json where there is one, else halves of test.json",
)
_SHORTLIST = flags.DEFINE_integer(
    "shortlist",
    12,
    "how many of the best-scored words are tried with real answers on the search questions",
    lower_bound=0,
)
_OPENINGS = flags.DEFINE_string(
    "openings", None, "file with refusal openings, one per line (default: found in the data's reference answers)"
)
_GUARD = flags.DEFINE_string("guard", None, "guard folder of bin/guard: attack the guarded model")
_REFERENCE = flags.DEFINE_string(
    "reference",
    None,
    "the model before its safety tuning: over-refusal words are then ranked by how much tuning raised their refusal"
    " margin, and words that it refused before (content, not shortcuts) are left out",
)
_SEED = flags.DEFINE_integer("seed", 0, "draws the questions and the null words")
_RESCORED = flags.DEFINE_integer(
    "rescored", 3, "how many of the best words are scored again in float32, one prompt at a time", lower_bound=0
)
_BLOCK = flags.DEFINE_integer("block", 64, "candidate words scored at a time", lower_bound=1)
_BATCH = shared_flags.batch_size(32)
_TOKENS = shared_flags.max_new_tokens(64)
flags.adopt_module_key_flags(attack_methods)
flags.adopt_module_key_flags(mesh_flag)
flags.adopt_module_key_flags(cluster)
flags.adopt_module_key_flags(judge_flags)
flags.adopt_module_key_flags(quantize_flag)
flags.adopt_module_key_flags(shard_flags)


def main(argv: list[str]) -> None:
    from vlm_mu_jax.attacks.attack import attack, beside, search_share
    from vlm_mu_jax.attacks.margin.search_run import check_shares, chosen_meshes
    from vlm_mu_jax.attacks.questions import AttackRecords
    from vlm_mu_jax.data.questions import parse_columns
    from vlm_mu_jax.data.readers import hub
    from vlm_mu_jax.steering import guard_folder
    from vlm_mu_jax.storage import model_folder

    share, options = shard_flags.share_from_flags(), _options_from_flags()
    out, speaks = outputs.check_writable(_OUT.value), cluster.join_from_flags()
    for way in shard_flags.ways_from_flags():
        cluster.check_shared(out, way)
    if shard_flags.JOIN.value:
        check_shares(beside(out, "margins.jsonl"))
    command.prepare_jax()
    data = hub.local(_DATA.value)
    judge = judge_flags.rater(
        judge_flags.options_from_flags(), data.parent if data.is_file() else data, cluster.own_file_from_flags(out)
    )
    folder = model_folder.find(_CHECKPOINT.value)
    with mesh_flag.placed(None, options.batch_size, options.max_new_tokens):
        meshes = chosen_meshes(folder, mesh_flag.sizes_from_flags(), one_group=options.method == "pgd")
    mesh = meshes[0] if meshes else None
    # a bad file or name is told before the model is loaded
    records = AttackRecords.read(data, _SPLIT.value, _KIND.value, parse_columns(_COLUMNS.value), options.seed)
    guard_folder.check(_GUARD.value)
    if _REFERENCE.value:
        model_folder.find(_REFERENCE.value)
    options.check_words()
    model = model_folder.load(folder, mesh=mesh, quantize=quantize_flag.QUANTIZE.value)
    given = {
        "guard": _GUARD.value,
        "reference": model_folder.load(_REFERENCE.value, mesh=mesh) if _REFERENCE.value else None,
        "out": out,
        "meshes": meshes,
        "progress": cluster.bar(),
    }
    if share is not None:
        search_share(model, records, options, share, **given)
        print(f"shard {share}: searched; --join measures when all {share.count} are done")
        return
    found = attack(model, records, options, judge=judge, name=resolved(_CHECKPOINT.value).name, **given)
    if speaks:
        print(found.table())
    cluster.leave_together()


def _options_from_flags() -> "AttackOptions":
    """The flags as `AttackOptions`."""
    from vlm_mu_jax.attacks.margin import openings
    from vlm_mu_jax.attacks.options import AttackOptions
    from vlm_mu_jax.attacks.words.one_word import WordOptions

    return AttackOptions(
        method=_METHOD.value,
        goals=("jailbreak", "over_refuse") if _GOAL.value == "both" else (_GOAL.value,),
        shots=_SHOTS.value,
        search_questions=_SEARCH.value,
        verify_questions=_VERIFY.value,
        seed=_SEED.value,
        turn=_TURN.value,
        batch_size=_BATCH.value,
        max_new_tokens=_TOKENS.value,
        openings=openings.read(_OPENINGS.value) if _OPENINGS.value else None,
        words=WordOptions(
            candidates=_WORDS.value,
            positions=tuple(dict.fromkeys(_POSITIONS.value)),
            mode=_MODE.value,
            shortlist=_SHORTLIST.value,
            rescored=_RESCORED.value,
            block=_BLOCK.value,
        ),
        **attack_methods.options_from_flags(_METHOD.value, _BLOCK.value),
    )


if __name__ == "__main__":
    command.run(main, __doc__)
