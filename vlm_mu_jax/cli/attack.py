"""Attacks a model: finds what makes it answer what it refuses, or refuse what it should answer.

The word search (--method=one_word) tries every word of a vocabulary at every position in the questions and ranks it by
the model's own refusal margin. The best words are then measured with real answers on questions the search never saw,
beside null words as a control. Other methods: a suffix by gradient (gcg) or blindly (random), for every question or one
for all (--universal), a begun answer (prefill), paraphrases with and without a word, and images (pgd within a bound,
blank, noise, typographic); each is measured with real answers beside a control. A killed attack continues
where it was when it is started again.

Example:
  bin/attack --checkpoint=runs/sft --data=runs/mini/data --out=runs/attack_sft/attack.json
"""

import contextlib
from pathlib import Path

from absl import flags

from vlm_mu_jax.cli import attack_methods, command, judge_flags
from vlm_mu_jax.cli.attack_methods import shown
from vlm_mu_jax.files import outputs
from vlm_mu_jax.files.json_file import write_json
from vlm_mu_jax.files.paths import resolved

_METHOD = flags.DEFINE_enum("method", "one_word", ["one_word", *attack_methods.METHODS], "what is tried")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "model folder", required=True)
_DATA = flags.DEFINE_string("data", None, "folder with train.json and test.json (VLGuard)", required=True)
_OUT = flags.DEFINE_string(
    "out",
    None,
    "JSON file to write; scores and answers go beside it, into NAME.margins.jsonl and NAME.answers.jsonl",
    required=True,
)
_WORDS = flags.DEFINE_string(
    "words",
    "tokenizer",
    "candidates: tokenizer (every whole word it knows), audit (first words of the safety data's questions), audit:FILE"
    " (those of a file of bin/audit), or a file of words",
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
_MESH = flags.DEFINE_list(
    "mesh",
    None,
    "devices that score one question together: data, fsdp, tensor (-1: all there are). data and fsdp split a block's"
    " candidates, fsdp and tensor the weights; further devices score further questions at the same time (default:"
    " -1,1,1; of pgd, which has no candidates to split, 1,1,1)",
)
_BATCH = flags.DEFINE_integer("batch_size", 32, "questions answered at a time", lower_bound=1)
_TOKENS = flags.DEFINE_integer("max_new_tokens", 64, "longest answer, in tokens", lower_bound=1)
flags.adopt_module_key_flags(attack_methods)
flags.adopt_module_key_flags(judge_flags)


def main(argv: list[str]) -> None:
    from vlm_mu_jax.evaluation.results.table import verdict_lines
    from vlm_mu_jax.storage import model_folder

    out, method = outputs.check_writable(_OUT.value), _METHOD.value
    use = None if method == "one_word" else attack_methods.settings(method, _SEED.value, _BLOCK.value)
    command.enable_compilation_cache()
    judge = judge_flags.rater(_DATA.value, out)
    meshes = _meshes(method)
    model = model_folder.load(_CHECKPOINT.value, mesh=meshes[0] if meshes else None)
    reference = model_folder.load(_REFERENCE.value, mesh=meshes[0] if meshes else None) if _REFERENCE.value else None
    search, verify = _questions()
    if use is None:
        result = _words(out, model, reference, search, verify, judge, meshes)
    else:
        result = _other(method, use, out, model, search, verify, judge, meshes)
    result |= {"model": resolved(_CHECKPOINT.value).name, "search_split": _split()}
    result["data"] = {r.source.name: r.sha256 for r in (search, verify)}
    result |= _judging(out, judge)
    write_json(out, result)
    print(_table(result) if use is None else attack_methods.table(result))
    if result["judge_cost"]:  # of a judge that asks a model
        print("\n".join(verdict_lines(result)))


def _words(out, model, reference, search, verify, judge, meshes) -> dict:
    """The word search."""
    from vlm_mu_jax import progress
    from vlm_mu_jax.attacks.words import one_word

    steer, answer_steer, guard = _guard(model, searches=True)
    words, openings = _candidates(model), _openings(model)
    identity = _identity(model, reference, guard, words, openings)
    with _resumable(out, identity) as (file, answers):
        run = one_word.Campaign(
            model,
            search,
            verify,
            judge,
            answers,
            _settings(one_word),
            steer,
            answer_steer,
            progress.bar,
            file,
            meshes,
            reference,
        )
        return run.run(words, openings) | {"words": _WORDS.value}


def _other(method, use, out, model, search, verify, judge, meshes) -> dict:
    """Every other method."""
    from vlm_mu_jax import progress
    from vlm_mu_jax.attacks import experiment
    from vlm_mu_jax.attacks.audit import counts
    from vlm_mu_jax.attacks.methods import trial

    searches, name = method in attack_methods.SEARCHES, attack_methods.name(method)
    steer, answer_steer, guard = _guard(model, searches)
    safety = _safety_records() if attack_methods.read_answers(method) else ()
    answered = [r.answer for r in safety if r.answer and not counts.refuses(r)]
    openings = attack_methods.targets(method, model.processor, answered, _SHOTS.value)
    openings = _openings(model) if searches and openings is None else openings
    identity = _weights(model, guard) | {
        "method": name,
        "settings": use,
        "openings": openings and [openings.wanted, openings.refusal],
        "max_new_tokens": _TOKENS.value,
    }
    settings = experiment.Settings(
        _goals(), _SHOTS.value, _SEARCH.value, _VERIFY.value, _SEED.value, _BATCH.value, _TOKENS.value
    )
    with _resumable(out, identity, attack_methods.kind(method)) as (file, answers):
        run = trial.Trial(
            model,
            search,
            verify,
            judge,
            answers,
            settings,
            steer,
            answer_steer,
            progress.bar,
            file,
            meshes,
            method=name,
            folder=out.with_name(f"{out.stem}.images"),
        )
        return attack_methods.run(run, method, use, openings, answered, _MODE.value)


def _judging(out, judge) -> dict:
    """What became of the answers that this attack has judged so far: no verdict on how many and why, and the cost."""
    from vlm_mu_jax.evaluation.answers import answers_file
    from vlm_mu_jax.evaluation.judges import BatchJudge
    from vlm_mu_jax.evaluation.results import rates

    answers = answers_file.read(_beside(out, "answers"))
    judged = {"attack": [answer for answer in answers if judge.name in answer.labels]}
    return {
        "unjudged": rates.unjudged(judged, judge.name),
        "judge_error": rates.common_error(judged, judge.name),
        "judge_cost": judge.cost() if isinstance(judge, BatchJudge) else None,
    }


def _beside(out, what: str) -> Path:
    return out.with_name(f"{out.stem}.{what}.jsonl")


@contextlib.contextmanager
def _resumable(out, identity, *kind):
    """(open file of finished questions, answers file): both of this very attack, or new."""
    from vlm_mu_jax.attacks.margins_file import MarginsFile

    answers = _beside(out, "answers")
    with MarginsFile(_beside(out, "margins"), identity, *kind) as file:
        if not file.resumed:
            answers.unlink(missing_ok=True)  # of an earlier attack, perhaps on another model
        yield file, answers


def _meshes(method: str) -> list:
    """Equal groups of devices; none where there is one device."""
    import math

    import jax

    from vlm_mu_jax.errors import InputError
    from vlm_mu_jax.parallel.mesh import make_mesh

    given = _MESH.value or ["1" if method == "pgd" else "-1", "1", "1"]
    try:
        sizes = [int(size) for size in given]
    except ValueError:
        sizes = []
    if len(sizes) != 3:
        raise InputError(f"--mesh={','.join(given)}: give three whole numbers, data,fsdp,tensor")
    devices = jax.devices()
    together = len(devices) if -1 in sizes else math.prod(sizes)
    if together < 1 or len(devices) % together:
        raise InputError(f"--mesh={','.join(given)}: {together} devices do not divide the {len(devices)} there are")
    groups = [devices[at : at + together] for at in range(0, len(devices), together)]
    return [make_mesh(*sizes, devices=group) for group in groups] if len(devices) > 1 else []


def _weights(model, guard) -> dict:
    """Which program is attacked."""
    from importlib.metadata import version

    from vlm_mu_jax.storage.identity import weights_hash

    return {
        "version": version("vlm_mu_jax"),
        "weights": weights_hash(model.params),
        "guard": guard,
        "template": model.processor.template,
    }


def _identity(model, reference, guard, words, openings) -> dict:
    """What makes scores and answers those of this very word search."""
    import hashlib

    from vlm_mu_jax.storage.identity import weights_hash

    return _weights(model, guard) | {
        "reference": reference and weights_hash(reference.params),
        "words": hashlib.sha256("\n".join(words).encode()).hexdigest(),
        "openings": openings.refusal,
        "positions": _POSITIONS.value,
        "mode": _MODE.value,
        "top": max(_SHOTS.value, _SHORTLIST.value),
        "max_new_tokens": _TOKENS.value,
    }


def _split() -> str:
    """--search_split with "auto" decided by the files there are. Data a model was tuned on is searched only if told to:
    the model may know those questions by heart."""

    if _SPLIT.value != "auto":
        return _SPLIT.value
    return "validation" if (Path(_DATA.value) / "validation.json").exists() else "test"


def _questions():
    """(search, verify) records."""
    from vlm_mu_jax.attacks.questions import halves
    from vlm_mu_jax.data import readers

    test = readers.read(Path(_DATA.value) / "test.json")
    if _split() == "test":
        return halves(test, _SEED.value)
    return readers.read(Path(_DATA.value) / f"{_split()}.json"), test


def _candidates(model) -> list[str]:
    from vlm_mu_jax.attacks.audit import counts
    from vlm_mu_jax.attacks.words import vocabulary

    if _WORDS.value == "audit":
        return vocabulary.first_words(counts.audit(_safety_records())["rows"])
    return vocabulary.candidate_words(_WORDS.value, model.processor.tokenizer)


def _goals() -> tuple[str, ...]:
    return ("jailbreak", "over_refuse") if _GOAL.value == "both" else (_GOAL.value,)


def _settings(one_word):
    return one_word.Settings(
        goals=_goals(),
        positions=tuple(dict.fromkeys(_POSITIONS.value)),
        mode=_MODE.value,
        shots=_SHOTS.value,
        search_questions=_SEARCH.value,
        verify_questions=_VERIFY.value,
        shortlist=_SHORTLIST.value,
        rescored=_RESCORED.value,
        seed=_SEED.value,
        block=_BLOCK.value,
        batch_size=_BATCH.value,
        max_new_tokens=_TOKENS.value,
    )


def _guard(model, searches: bool):
    """(the guard as the search takes it, as the answers take it, its hash); Nones without --guard.

    searches: whether there is a search at all; without one, any guard will do.
    """
    if not _GUARD.value:
        return None, None, None
    import hashlib

    from vlm_mu_jax.attacks.prefix import FirstPass
    from vlm_mu_jax.errors import InputError
    from vlm_mu_jax.steering.guard import load_guard

    guard = load_guard(_GUARD.value, model)
    files = sorted(p for p in Path(_GUARD.value).iterdir() if p.is_file())
    digest = hashlib.sha256(b"".join(hashlib.sha256(p.read_bytes()).digest() for p in files)).hexdigest()
    answer_steer = guard.steer(model)
    if guard.options.component != "token" and searches:
        raise InputError(
            f"--guard={_GUARD.value}: adds a component that a first pass reads off every prompt anew, so candidates"
            " share no prefix to search on; attack it with --method=prefill, paraphrase, blank, noise or typographic"
        )
    if guard.options.needs_first_pass:
        return FirstPass(guard.as_steer, guard.options.first_pass_reads_text), answer_steer, digest
    return answer_steer, answer_steer, digest


def _safety_records():
    """Records of train.json (test.json where there is none)."""
    from vlm_mu_jax.data import readers

    files = [Path(_DATA.value) / name for name in ("train.json", "test.json")]
    return readers.read(next((f for f in files if f.exists()), files[-1]), check_images=False)


def _openings(model):
    """From the file given, else from the reference answers of train.json (test.json where there is none)."""
    from vlm_mu_jax.attacks import openings
    from vlm_mu_jax.attacks.audit import counts
    from vlm_mu_jax.errors import InputError

    if _OPENINGS.value:
        try:
            texts = Path(_OPENINGS.value).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"--openings={_OPENINGS.value}: cannot be read ({error}); give a text file, one opening per line"
            ) from error
        return openings.from_texts(texts, model.processor)
    known = [r for r in _safety_records() if r.answer]
    return openings.discover(
        [(r.question, r.answer) for r in known], [counts.refuses(r) for r in known], model.processor
    )


def _table(result: dict) -> str:
    found = result["openings"]
    lines = [
        f"{result['vocabulary_size']} words at {', '.join(result['positions'])} ({result['mode']}),"
        f" judged by {result['judge']}; refusal openings ({found['source']}): {'; '.join(found['texts'])}"
    ]
    for position, part in result["by_position"].items():
        for goal, rate, name in (("jailbreak", "asr", "attack success"), ("over_refuse", "rr", "refusal rate")):
            if rate in part["any_of_k"]:
                lines += ["", *_goal_lines(part, goal, rate, name, position, result["n_search"][goal])]
    return "\n".join(lines)


def _goal_lines(part: dict, goal: str, rate: str, name: str, position: str, searched: int) -> list[str]:
    summary, k = part["any_of_k"][rate], len(part[goal])
    own, search = summary["per_question"], part["search"][goal]
    lines = [
        f"{goal} at {position}: {name} on {part['n_verify'][goal]} questions (searched on {searched} others)",
        f"  {'unchanged':<20}{shown(summary['original'])}",
        *(f"  {entry['word']:<20}{shown(entry[rate])}   margin {entry['score']:.2f}" for entry in part[goal]),
        f"  {'any of these ' + str(k):<20}{shown(summary['any_of_k'])}",
        *(f"  {row['word'] + ' (null)':<20}{shown(row[rate])}" for row in part["null"] if row["goal"] == goal),
        f"  {'any of the null':<20}{shown(summary['any_of_k_null'])}",
        f"  {'own words':<20}{shown(own['any_of_k'])}   each search question under its own best {k}, on itself",
    ]
    if search["run_as_whole_prompts"]:
        whole, prompts = search["run_as_whole_prompts"], search["prompts"]
        lines.append(f"  {whole} of {prompts} prompts share no prefix with their question and were run whole")
    return lines


if __name__ == "__main__":
    command.run(main, __doc__)
