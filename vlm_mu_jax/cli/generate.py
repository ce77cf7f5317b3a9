"""Answers one prompt, with or without images, or every question of a data file.

The prompt goes through the checkpoint's conversation template, and the answer is printed word by word as it comes; with
--guard the guard steers the model. With --json one object is printed instead: the token ids the model saw (each image
as its placeholder ids), the new token ids, their log-probabilities and the text, so that anything can be checked
against another implementation. Greedy unless --temperature is above 0.

With --data and --out every record of the file is asked, greedily, each with its own image. OUT gets one JSON line per
answer; a killed run goes on where it stopped. OUT.provenance.json says which model answered.

Example:
  bin/generate --checkpoint=runs/base --image=photo.png --prompt="What is on this sign?" --max_new_tokens=64
  bin/generate --checkpoint=runs/base --data=runs/mini/data/train.json --kinds=unsafe --out=runs/answers/base.jsonl
  bin/generate --checkpoint=runs/base --data=questions.csv --kind=unsafe --columns=question=Goal --out=mine.jsonl
"""

from absl import flags

from vlm_mu_jax.cli import command

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "model folder", required=True)
_PROMPT = flags.DEFINE_string("prompt", None, "the question")
_DATA = flags.DEFINE_string("data", None, "instead of --prompt: a data file whose questions are all asked")
_OUT = flags.DEFINE_string("out", None, "--data: answers file to write")
_KIND = flags.DEFINE_string("kind", None, "--data: kind of rows that name none: unsafe, safe or general")
_COLUMNS = flags.DEFINE_string("columns", "", "--data: the file's names of columns, such as question=Goal,image=file")
_KINDS = flags.DEFINE_list("kinds", [], "--data: ask only these kinds of records, such as unsafe; all without it")
_BATCH = flags.DEFINE_integer("batch_size", 16, "--data: questions answered at a time", lower_bound=1)
_IMAGE = flags.DEFINE_multi_string("image", [], "image file; may be given several times, none for text only")
_TOKENS = flags.DEFINE_integer("max_new_tokens", 256, "longest answer, in tokens", lower_bound=1)
_JSON = flags.DEFINE_bool("json", False, "print one JSON object instead of the text")
_TEMPERATURE = flags.DEFINE_float("temperature", 0.0, "0 = greedy; above 0 = sampling", lower_bound=0.0)
_TOP_P = flags.DEFINE_float(
    "top_p", 1.0, "sample from the smallest set of tokens with this probability", lower_bound=0.0, upper_bound=1.0
)
_SEED = flags.DEFINE_integer("seed", 0, "seed of the sampling")
_GUARD = flags.DEFINE_string("guard", None, "guard folder of bin/guard: steer the model with it")


def main(argv: list[str]) -> None:
    import dataclasses
    import json

    import vlm_mu_jax
    from vlm_mu_jax.evaluation.answers import one_answer

    _check_flags()
    command.enable_compilation_cache()
    model = vlm_mu_jax.load(_CHECKPOINT.value)
    if _DATA.value:
        _answer_all(model)
        return
    options = one_answer.SamplingOptions(
        max_new_tokens=_TOKENS.value,
        temperature=_TEMPERATURE.value,
        top_p=_TOP_P.value,
        seed=_SEED.value,
        guard=_GUARD.value,
    )
    so_far = one_answer.stream_answer(model, _PROMPT.value, _IMAGE.value, options)
    if _JSON.value:
        *_, answer = so_far
        print(json.dumps(dataclasses.asdict(answer), ensure_ascii=False))
        return
    for piece in one_answer.pieces(answer.text for answer in so_far):
        print(piece, end="", flush=True)
    print()


def _check_flags() -> None:
    """One prompt or one file, and no flag of the other way. Raises InputError."""
    from vlm_mu_jax.errors import InputError

    if bool(_PROMPT.value) == bool(_DATA.value):
        raise InputError("give --prompt for one answer, or --data and --out for those to a file")
    if _PROMPT.value and (_OUT.value or _KINDS.value or _KIND.value or _COLUMNS.value):
        raise InputError("--out, --kinds, --kind and --columns belong to --data; leave them out")
    if _DATA.value and not _OUT.value:
        raise InputError("--data needs --out, the answers file to write")
    if _DATA.value and (_IMAGE.value or _JSON.value or _TEMPERATURE.value):
        raise InputError("--image, --json and --temperature belong to --prompt; leave them out")


def _answer_all(model) -> None:
    from vlm_mu_jax import progress
    from vlm_mu_jax.data import questions
    from vlm_mu_jax.evaluation.answers.asking import AnswerOptions
    from vlm_mu_jax.evaluation.answers.record_answers import answer_file

    columns = questions.parse_columns(_COLUMNS.value)
    answers = answer_file(
        model,
        questions.read(_DATA.value, _KIND.value, columns),
        _OUT.value,
        kinds=_KINDS.value,
        guard=_GUARD.value,
        options=AnswerOptions(_BATCH.value, _TOKENS.value, progress=progress.bar),
    )
    print(f"{len(answers)} answers in {_OUT.value}")


if __name__ == "__main__":
    command.run(main, __doc__)
