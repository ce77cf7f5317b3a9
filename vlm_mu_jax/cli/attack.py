"""One-word attack: finds the single words that make a model answer what it refuses, or refuse what it should answer.

Tries every word of a vocabulary at every position in the questions and ranks it by the model's own refusal margin. The
best words are then measured with real answers on questions the search never saw, beside null words as a control. A
killed attack continues with the question it was at when it is started again.

Example:
  bin/attack --checkpoint=runs/sft --data=runs/mini/data --out=runs/attack_sft/attack.json
"""

from absl import flags

from vlm_mu_jax.cli import command, output

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
_JUDGE = flags.DEFINE_enum(
    "judge",
    None,
    ["oracle", "keyword", "keyword_seed"],
    "who judges the answers (default: oracle if the data have one, else keyword)",
)
_SEED = flags.DEFINE_integer("seed", 0, "draws the questions and the null words")
_RESCORED = flags.DEFINE_integer(
    "rescored", 3, "how many of the best words are scored again in float32, one prompt at a time", lower_bound=0
)
_BLOCK = flags.DEFINE_integer("block", 64, "candidate words scored at a time", lower_bound=1)
_MESH = flags.DEFINE_list(
    "mesh",
    ["-1", "1", "1"],
    "devices that score one question together: data, fsdp, tensor (-1: all there are). data and fsdp split a block's"
    " candidates, fsdp and tensor the weights; further devices score further questions at the same time",
)
_BATCH = flags.DEFINE_integer("batch_size", 32, "questions answered at a time", lower_bound=1)
_TOKENS = flags.DEFINE_integer("max_new_tokens", 64, "longest answer, in tokens", lower_bound=1)


def main(argv: list[str]) -> None:
    from vlm_mu_jax import model_folder
    from vlm_mu_jax.attack import campaign
    from vlm_mu_jax.attack.margins_file import MarginsFile
    from vlm_mu_jax.cli import progress
    from vlm_mu_jax.evaluation import judges

    command.enable_compilation_cache()
    out = output.check_writable(_OUT.value)
    meshes = _meshes()
    model = model_folder.load(_CHECKPOINT.value, mesh=meshes[0] if meshes else None)
    reference = model_folder.load(_REFERENCE.value, mesh=meshes[0] if meshes else None) if _REFERENCE.value else None
    search, verify = _questions()
    judge = (
        judges.get(_JUDGE.value, _DATA.value) if _JUDGE.value else next(iter(judges.available(_DATA.value).values()))
    )
    steer, answer_steer, guard = _guard(model)
    words, openings, settings = _candidates(model), _openings(model), _settings(campaign)
    answers = out.with_name(f"{out.stem}.answers.jsonl")
    identity = _identity(model, reference, guard, words, openings)
    with MarginsFile(out.with_name(f"{out.stem}.margins.jsonl"), identity) as file:
        if not file.resumed:
            answers.unlink(missing_ok=True)  # of an earlier attack, perhaps on another model
        run = campaign.Campaign(
            model, search, verify, judge, answers, settings, steer, answer_steer, progress.bar, reference, file, meshes
        )
        result = run.run(words, openings)
    result["words"], result["search_split"] = _WORDS.value, _split()
    result["data"] = {r.source.name: r.sha256 for r in (search, verify)}
    output.write_json(out, result)
    print(_table(result))


def _meshes() -> list:
    """Equal groups of devices; none where there is one device."""
    import math

    import jax

    from vlm_mu_jax.errors import InputError
    from vlm_mu_jax.parallel.mesh import make_mesh

    try:
        sizes = [int(size) for size in _MESH.value]
    except ValueError:
        sizes = []
    if len(sizes) != 3:
        raise InputError(f"--mesh={','.join(_MESH.value)}: give three whole numbers, data,fsdp,tensor")
    devices = jax.devices()
    together = len(devices) if -1 in sizes else math.prod(sizes)
    if together < 1 or len(devices) % together:
        raise InputError(
            f"--mesh={','.join(_MESH.value)}: {together} devices do not divide the {len(devices)} there are"
        )
    groups = [devices[at : at + together] for at in range(0, len(devices), together)]
    return [make_mesh(*sizes, devices=group) for group in groups] if len(devices) > 1 else []


def _identity(model, reference, guard, words, openings) -> dict:
    """What makes scores and answers those of this very attack."""
    import hashlib
    from importlib.metadata import version

    from vlm_mu_jax.steering.artifact import weights_hash

    return {
        "version": version("vlm_mu_jax"),
        "weights": weights_hash(model.params),
        "reference": reference and weights_hash(reference.params),
        "guard": guard,
        "template": model.processor.template,
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
    from pathlib import Path

    if _SPLIT.value != "auto":
        return _SPLIT.value
    return "validation" if (Path(_DATA.value) / "validation.json").exists() else "test"


def _questions():
    """(search, verify) records."""
    from pathlib import Path

    from vlm_mu_jax.attack.questions import halves
    from vlm_mu_jax.data import readers

    test = readers.read(Path(_DATA.value) / "test.json")
    if _split() == "test":
        return halves(test, _SEED.value)
    return readers.read(Path(_DATA.value) / f"{_split()}.json"), test


def _candidates(model) -> list[str]:
    from vlm_mu_jax.attack import audit, words

    if _WORDS.value == "audit":
        return words.first_words(audit.audit(_safety_records())["rows"])
    return words.candidate_words(_WORDS.value, model.processor.tokenizer)


def _settings(campaign):
    return campaign.Settings(
        goals=("jailbreak", "over_refuse") if _GOAL.value == "both" else (_GOAL.value,),
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


def _guard(model):
    """(the guard as the search takes it, as the answers take it, its hash); Nones without --guard."""
    if not _GUARD.value:
        return None, None, None
    import hashlib
    from pathlib import Path

    from vlm_mu_jax.attack.guards import FirstPass
    from vlm_mu_jax.steering.guard import load_guard
    from vlm_mu_jax.steering.guarded import steering

    guard = load_guard(_GUARD.value, model)
    files = sorted(p for p in Path(_GUARD.value).iterdir() if p.is_file())
    digest = hashlib.sha256(b"".join(hashlib.sha256(p.read_bytes()).digest() for p in files)).hexdigest()
    answer_steer = steering(model, guard)
    if guard.settings.needs_first_pass:
        return FirstPass(guard.steer, guard.settings.gate_source == "text"), answer_steer, digest
    return answer_steer, answer_steer, digest


def _safety_records():
    """Records of train.json (test.json where there is none)."""
    from pathlib import Path

    from vlm_mu_jax.data import readers

    files = [Path(_DATA.value) / name for name in ("train.json", "test.json")]
    return readers.read(next((f for f in files if f.exists()), files[-1]), check_images=False)


def _openings(model):
    """From the file given, else from the reference answers of train.json (test.json where there is none)."""
    from pathlib import Path

    from vlm_mu_jax.attack import audit, openings
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
        [(r.question, r.answer) for r in known], [audit.refuses(r) for r in known], model.processor
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
        f"  {'unchanged':<20}{_shown(summary['original'])}",
        *(f"  {entry['word']:<20}{_shown(entry[rate])}   margin {entry['score']:.2f}" for entry in part[goal]),
        f"  {'any of these ' + str(k):<20}{_shown(summary['any_of_k'])}",
        *(f"  {row['word'] + ' (null)':<20}{_shown(row[rate])}" for row in part["null"] if row["goal"] == goal),
        f"  {'any of the null':<20}{_shown(summary['any_of_k_null'])}",
        f"  {'own words':<20}{_shown(own['any_of_k'])}   each search question under its own best {k}, on itself",
    ]
    if search["run_as_whole_prompts"]:
        whole, prompts = search["run_as_whole_prompts"], search["prompts"]
        lines.append(f"  {whole} of {prompts} prompts share no prefix with their question and were run whole")
    return lines


def _shown(metric: dict) -> str:
    if metric["value"] is None:
        return "no judged answer"
    value, low, high = (100 * metric[name] for name in ("value", "low", "high"))
    return f"{value:5.1f} % [{low:.1f}, {high:.1f}]  ({metric['k']}/{metric['n']})"


if __name__ == "__main__":
    command.run(main, __doc__)
