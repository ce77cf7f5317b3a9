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

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from absl import flags

from vlm_mu_jax.cli import chat_loop, cluster, command, mesh_flag, quantize_flag, shard_flags, shared_flags

if TYPE_CHECKING:
    from vlm_mu_jax.data.records import Records
    from vlm_mu_jax.evaluation.answers.answers_file import Answer
    from vlm_mu_jax.evaluation.answers.asking import AnswerOptions
    from vlm_mu_jax.evaluation.answers.one_answer import OneAnswer
    from vlm_mu_jax.evaluation.answers.share import Share
    from vlm_mu_jax.storage.model_folder import Model

flags.adopt_module_key_flags(quantize_flag)
_CHECKPOINT = shared_flags.checkpoint()
_PROMPT = flags.DEFINE_string("prompt", None, "the question")
_HISTORY = flags.DEFINE_string("history", None, "instead of --prompt: a file with one conversation to go on with")
_CHAT = flags.DEFINE_bool("chat", False, "instead of --prompt: read questions line by line, and answer each")
_SYSTEM = flags.DEFINE_string("system", None, "--chat: the system text, instead of the chat template's own")
_DATA = flags.DEFINE_string("data", None, "instead of --prompt: a data file whose questions are all asked")
_OUT = flags.DEFINE_string("out", None, "--data: answers file to write")
_KIND = flags.DEFINE_string("kind", None, "--data: kind of rows that name none: unsafe, safe or general")
_COLUMNS = shared_flags.columns("--data: ")
_KINDS = flags.DEFINE_list("kinds", [], "--data: ask only these kinds of records, such as unsafe; all without it")
_BATCH = shared_flags.batch_size(16, "--data: ")
_IMAGE = flags.DEFINE_multi_string("image", [], "image file; may be given several times, none for text only")
_TOKENS = shared_flags.max_new_tokens(256)
_JSON = flags.DEFINE_bool("json", False, "print one JSON object instead of the text")
_TEMPERATURE = flags.DEFINE_float("temperature", 0.0, "0 = greedy; above 0 = sampling", lower_bound=0.0)
_TOP_P = flags.DEFINE_float(
    "top_p", 1.0, "sample from the smallest set of tokens with this probability", lower_bound=0.0, upper_bound=1.0
)
_SEED = flags.DEFINE_integer("seed", 0, "seed of the sampling")
_GUARD = shared_flags.guard()
flags.adopt_module_key_flags(mesh_flag)
flags.adopt_module_key_flags(cluster)
flags.adopt_module_key_flags(shard_flags)


def main(argv: list[str]) -> None:
    from vlm_mu_jax.data import images, questions
    from vlm_mu_jax.evaluation.answers import chat, one_answer, record_answers
    from vlm_mu_jax.evaluation.answers.asking import AnswerOptions
    from vlm_mu_jax.steering import guard_folder
    from vlm_mu_jax.storage import model_folder

    way, share = _way_from_flags(), shard_flags.share_from_flags()
    if way == "--data":
        cluster.join_from_flags()
    command.prepare_jax()
    if way == "--data":
        records = questions.read(_DATA.value, _KIND.value, questions.parse_columns(_COLUMNS.value))
        records = record_answers.asked_of(records, _KINDS.value)
        if shard_flags.JOIN.value:
            return _count(record_answers.join_shares(records, _OUT.value), f"in {_OUT.value}")
    history = questions.read_conversation(_HISTORY.value) if way == "--history" else None
    guard_folder.check(_GUARD.value)
    for image in _IMAGE.value:
        images.size_of(image)
    rows = _BATCH.value if way == "--data" else 1
    with mesh_flag.placed(mesh_flag.sizes_from_flags(), rows, _TOKENS.value):  # when all else has been read
        model = model_folder.load(_CHECKPOINT.value, quantize=quantize_flag.QUANTIZE.value)
    if way == "--data":
        asking = AnswerOptions(rows, _TOKENS.value, progress=cluster.bar())
        _answer_all(model, records, _OUT.value, _GUARD.value, asking, share)
        return cluster.leave_together()
    options = one_answer.SamplingOptions(_TOKENS.value, _TEMPERATURE.value, _TOP_P.value, _SEED.value, _GUARD.value)
    if way == "--chat":
        talk = chat.Chat(model, _SYSTEM.value, **dataclasses.asdict(options))
        return chat_loop.run(talk, _IMAGE.value)
    if history is not None:
        so_far = chat.stream_reply(model, history, options)
    else:
        so_far = one_answer.stream_answer(model, _PROMPT.value, _IMAGE.value, options)
    _print(so_far, as_json=_JSON.value)


def _way_from_flags() -> str:
    """The flag that says what is asked. Raises InputError for none, for two, and for flags of another way."""
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
    return way


def _answer_all(
    model: "Model", records: "Records", out: str, guard: str | None, options: "AnswerOptions", share: "Share | None"
) -> None:
    from vlm_mu_jax.evaluation.answers import record_answers
    from vlm_mu_jax.parallel import distributed

    speaks = distributed.first()
    tell = cluster.tell if speaks else None
    answers = record_answers.answer_file(model, records, out, guard=guard, options=options, share=share, tell=tell)
    if speaks:
        _count(answers, f"in {out}" if share is None else f"of shard {share}; --join puts all together")


def _count(answers: Sequence["Answer"], where: str) -> None:
    too_long = sum(bool(answer.left_out) for answer in answers)
    print(f"{len(answers) - too_long} answers {where}")
    if too_long:
        print(f"{too_long} questions are too long for the model and were not asked; their lines say so")


def _print(so_far: Iterator["OneAnswer"], as_json: bool) -> None:
    from vlm_mu_jax.evaluation.answers import one_answer

    if as_json:
        *_, whole = so_far
        print(json.dumps(dataclasses.asdict(whole), ensure_ascii=False))
        return
    for piece in one_answer.pieces(answer.text for answer in so_far):
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    command.run(main, __doc__)
