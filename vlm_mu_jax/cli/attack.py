"""One-word attack: finds the single words that make a model answer what it refuses, or refuse what it should answer.

Tries every word of a vocabulary as the first word of the questions and ranks it by the model's own refusal margin. The
best words are then measured with real answers on questions the search never saw, beside null words as a control.

Example:
  bin/attack --checkpoint=runs/sft --data=runs/mini/data --out=runs/attack_sft/attack.json
"""

from absl import flags

from vlm_mu_jax.cli import command, output

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "model folder", required=True)
_DATA = flags.DEFINE_string("data", None, "folder with train.json and test.json (VLGuard)", required=True)
_OUT = flags.DEFINE_string(
    "out", None, "JSON file to write; all answers go beside it, into NAME.answers.jsonl", required=True
)
_WORDS = flags.DEFINE_string(
    "words",
    "tokenizer",
    "candidates: tokenizer (every whole word it knows), audit:FILE (first words of bin/audit), or a file of words",
)
_MODE = flags.DEFINE_enum(
    "mode", "swap", ["swap", "insert"], "replace the question's first word, or put the word before it"
)
_GOAL = flags.DEFINE_enum("goal", "both", ["both", "jailbreak", "over_refuse"], "what the words should do")
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
_JUDGE = flags.DEFINE_enum(
    "judge",
    None,
    ["oracle", "keyword", "keyword_seed"],
    "who judges the answers (default: oracle if the data have one, else keyword)",
)
_SEED = flags.DEFINE_integer("seed", 0, "draws the questions and the null words")
_BLOCK = flags.DEFINE_integer("block", 64, "candidate words scored at a time", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 32, "questions answered at a time", lower_bound=1)
_TOKENS = flags.DEFINE_integer("max_new_tokens", 64, "longest answer, in tokens", lower_bound=1)


def main(argv: list[str]) -> None:
    from vlm_mu_jax import model_folder
    from vlm_mu_jax.attack import campaign, words
    from vlm_mu_jax.cli import progress
    from vlm_mu_jax.evaluation import judges

    command.enable_compilation_cache()
    out = output.check_writable(_OUT.value)
    model = model_folder.load(_CHECKPOINT.value)
    reference = model_folder.load(_REFERENCE.value) if _REFERENCE.value else None
    search, verify = _questions(campaign)
    judge = (
        judges.get(_JUDGE.value, _DATA.value) if _JUDGE.value else next(iter(judges.available(_DATA.value).values()))
    )
    settings, steer = _settings(campaign), _steer(model)
    answers = out.with_name(f"{out.stem}.answers.jsonl")
    answers.unlink(missing_ok=True)  # of an earlier attack, perhaps on another model
    run = campaign.Campaign(model, search, verify, judge, answers, settings, steer, progress.bar, reference)
    result = run.run(words.candidate_words(_WORDS.value, model.processor.tokenizer), _openings(model))
    result["words"], result["search_split"] = _WORDS.value, _split()
    result["data"] = {r.source.name: r.sha256 for r in (search, verify)}
    output.write_json(out, result)
    print(_table(result))


def _split() -> str:
    """--search_split with "auto" decided by the files there are. Data a model was tuned on is searched only if told to:
    the model may know those questions by heart."""
    from pathlib import Path

    if _SPLIT.value != "auto":
        return _SPLIT.value
    return "validation" if (Path(_DATA.value) / "validation.json").exists() else "test"


def _questions(campaign):
    """(search, verify) records."""
    from pathlib import Path

    from vlm_mu_jax.data import readers

    test = readers.read(Path(_DATA.value) / "test.json")
    if _split() == "test":
        return campaign.halves(test, _SEED.value)
    return readers.read(Path(_DATA.value) / f"{_split()}.json"), test


def _settings(campaign):
    return campaign.Settings(
        goals=("jailbreak", "over_refuse") if _GOAL.value == "both" else (_GOAL.value,),
        mode=_MODE.value,
        shots=_SHOTS.value,
        search_questions=_SEARCH.value,
        verify_questions=_VERIFY.value,
        shortlist=_SHORTLIST.value,
        seed=_SEED.value,
        block=_BLOCK.value,
        batch_size=_BATCH.value,
        max_new_tokens=_TOKENS.value,
    )


def _steer(model):
    if not _GUARD.value:
        return None
    from vlm_mu_jax.steering.guard import load_steer

    return load_steer(_GUARD.value, model)


def _openings(model):
    """From the file given, else from the reference answers of train.json (test.json where there is none)."""
    from pathlib import Path

    from vlm_mu_jax.attack import audit, openings
    from vlm_mu_jax.data import readers
    from vlm_mu_jax.errors import InputError

    if _OPENINGS.value:
        try:
            texts = Path(_OPENINGS.value).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"--openings={_OPENINGS.value}: cannot be read ({error}); give a text file, one opening per line"
            ) from error
        return openings.from_texts(texts, model.processor)
    files = [Path(_DATA.value) / name for name in ("train.json", "test.json")]
    records = readers.read(next(f for f in files if f.exists()), check_images=False)
    known = [r for r in records if r.answer]
    return openings.discover(
        [(r.question, r.answer) for r in known], [audit.refuses(r) for r in known], model.processor
    )


def _table(result: dict) -> str:
    found = result["openings"]
    lines = [
        f"{result['vocabulary_size']} words at {', '.join(result['positions'])} ({result['mode']}),"
        f" judged by {result['judge']}; refusal openings ({found['source']}): {'; '.join(found['texts'])}"
    ]
    for goal, rate, name in (("jailbreak", "asr", "attack success"), ("over_refuse", "rr", "refusal rate")):
        if rate not in result["any_of_k"]:
            continue
        summary = result["any_of_k"][rate]
        lines += [
            "",
            f"{goal}: {name} on {result['n_verify'][goal]} questions (searched on {result['n_search'][goal]} others)",
        ]
        lines.append(f"  {'unchanged':<20}{_shown(summary['original'])}")
        lines += [f"  {entry['word']:<20}{_shown(entry[rate])}   margin {entry['score']:.2f}" for entry in result[goal]]
        lines.append(f"  {'any of these ' + str(result['k']):<20}{_shown(summary['any_of_k'])}")
        control = [row for row in result["null"] if row["goal"] == goal]
        lines += [f"  {row['word'] + ' (null)':<20}{_shown(row[rate])}" for row in control]
        lines.append(f"  {'any of the null':<20}{_shown(summary['any_of_k_null'])}")
    return "\n".join(lines)


def _shown(metric: dict) -> str:
    if metric["value"] is None:
        return "no judged answer"
    value, low, high = (100 * metric[name] for name in ("value", "low", "high"))
    return f"{value:5.1f} % [{low:.1f}, {high:.1f}]  ({metric['k']}/{metric['n']})"


if __name__ == "__main__":
    command.run(main, __doc__)
