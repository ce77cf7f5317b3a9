"""Answers one prompt, with or without images, a conversation, or every question of a data file; or chats.

The prompt goes through the checkpoint's conversation template, and the answer is printed word by word as it comes; with
--guard the guard steers the model. With --json one object is printed instead: the token ids the model saw (each image
as its placeholder ids), the new token ids, their log-probabilities and the text, so that anything can be checked
against another implementation. Greedy unless --temperature is above 0.

With --history=FILE the last question of a conversation is answered, behind its earlier turns. The file has one row of
any shape that bin/train reads, or a JSON list of messages. With --chat questions are read line by line; /help says
what else can be typed.

With --data and --out every record of the file is asked, greedily, each with its own image. OUT gets one JSON line per
answer; a killed run goes on where it stopped. OUT.provenance.json says which model answered.

Example:
  bin/generate --checkpoint=runs/base --image=photo.png --prompt="What is on this sign?" --max_new_tokens=64
  bin/generate --checkpoint=runs/base --history=conversation.json
  bin/generate --checkpoint=runs/base --chat --image=photo.png
  bin/generate --checkpoint=runs/base --data=runs/mini/data/train.json --kinds=unsafe --out=runs/answers/base.jsonl
  bin/generate --checkpoint=runs/base --data=questions.csv --kind=unsafe --columns=question=Goal --out=mine.jsonl
"""

from absl import flags

from vlm_mu_jax.cli import chat_loop, cluster, command, mesh_flag, quantize_flag, shard_flags

flags.adopt_module_key_flags(quantize_flag)
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "model folder", required=True)
_PROMPT = flags.DEFINE_string("prompt", None, "the question")
_HISTORY = flags.DEFINE_string("history", None, "instead of --prompt: a file with one conversation to go on with")
_CHAT = flags.DEFINE_bool("chat", False, "instead of --prompt: read questions line by line, and answer each")
_SYSTEM = flags.DEFINE_string("system", None, "--chat: the system text, instead of the chat template's own")
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
flags.adopt_module_key_flags(mesh_flag)
flags.adopt_module_key_flags(cluster)
flags.adopt_module_key_flags(shard_flags)


def main(argv: list[str]) -> None:
    import dataclasses
    import json

    import vlm_mu_jax
    from vlm_mu_jax.data import images, questions
    from vlm_mu_jax.evaluation.answers import chat, one_answer
    from vlm_mu_jax.steering import guard_folder

    _check_flags()
    if _DATA.value:
        return _answer_all()
    command.enable_compilation_cache()
    history = questions.read_conversation(_HISTORY.value) if _HISTORY.value else None
    guard_folder.check(_GUARD.value)
    for image in _IMAGE.value:
        images.size_of(image)
    with mesh_flag.placed(1, _TOKENS.value):  # when all else has been read
        model = vlm_mu_jax.load(_CHECKPOINT.value, quantize=quantize_flag.QUANTIZE.value)
    options = one_answer.SamplingOptions(
        max_new_tokens=_TOKENS.value,
        temperature=_TEMPERATURE.value,
        top_p=_TOP_P.value,
        seed=_SEED.value,
        guard=_GUARD.value,
    )
    if _CHAT.value:
        talk = chat.Chat(model, _SYSTEM.value, **dataclasses.asdict(options))
        chat_loop.run(talk, _IMAGE.value)
        return
    if history is not None:
        so_far = chat.stream_reply(model, history, options)
    else:
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

    ways = {"--prompt": _PROMPT.value, "--history": _HISTORY.value, "--chat": _CHAT.value, "--data": _DATA.value}
    given = [name for name, value in ways.items() if value]
    if len(given) != 1:
        raise InputError(f"give one of {', '.join(ways)}" + (f", not {' and '.join(given)}" if given else ""))
    way = given[0]
    belong = {
        "--out": (_OUT.value, "--data"),
        "--kinds": (_KINDS.value, "--data"),
        "--kind": (_KIND.value, "--data"),
        "--columns": (_COLUMNS.value, "--data"),
        "--shard": (shard_flags.SHARD.value, "--data"),
        "--join": (shard_flags.JOIN.value, "--data"),
        "--coordinator": (cluster.COORDINATOR.value, "--data"),
        "--image": (_IMAGE.value, "--prompt or --chat"),
        "--json": (_JSON.value, "--prompt or --history"),
        "--temperature": (_TEMPERATURE.value, "--prompt, --history or --chat"),
        "--system": (_SYSTEM.value, "--chat"),
    }
    for name, (value, where) in belong.items():
        if value and way not in where:
            raise InputError(f"{name} belongs to {where}; leave it out with {way}")
    if way == "--data" and not _OUT.value:
        raise InputError("--data needs --out, the answers file to write")


def _answer_all() -> None:
    """Answers the questions of --data, or puts the answers of all shards together."""
    import vlm_mu_jax
    from vlm_mu_jax import progress
    from vlm_mu_jax.data import questions
    from vlm_mu_jax.evaluation.answers import record_answers
    from vlm_mu_jax.evaluation.answers.asking import AnswerOptions
    from vlm_mu_jax.steering import guard_folder

    speaks = cluster.join()
    command.enable_compilation_cache()
    records = questions.read(_DATA.value, _KIND.value, questions.parse_columns(_COLUMNS.value))
    records, share = record_answers.asked_of(records, _KINDS.value), shard_flags.share()
    guard_folder.check(_GUARD.value)
    if shard_flags.JOIN.value:
        answers = record_answers.join_shares(records, _OUT.value)
    else:
        with mesh_flag.placed(_BATCH.value, _TOKENS.value):  # when all else has been read
            model = vlm_mu_jax.load(_CHECKPOINT.value, quantize=quantize_flag.QUANTIZE.value)
        answers = record_answers.answer_file(
            model,
            records,
            _OUT.value,
            guard=_GUARD.value,
            options=AnswerOptions(_BATCH.value, _TOKENS.value, progress=progress.bar if speaks else None),
            share=share,
            tell=cluster.tell if speaks else None,
        )
    if speaks:
        too_long = sum(bool(answer.left_out) for answer in answers)
        where = f"in {_OUT.value}" if share is None else f"of shard {share}; --join puts all together"
        print(f"{len(answers) - too_long} answers {where}")
        if too_long:
            print(f"{too_long} questions are too long for the model and were not asked; their lines say so")
    cluster.leave_together()


if __name__ == "__main__":
    command.run(main, __doc__)
