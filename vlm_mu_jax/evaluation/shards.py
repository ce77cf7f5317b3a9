"""An evaluation that several jobs, or the processes of one, answer together.

Each answers its share of the questions into a workdir of its own, WORKDIR/shards/K-of-N. Joining puts all answers into
WORKDIR, in the order of the questions, where `evaluate` then finds nothing to generate. Shards need a common folder and
nothing else: they may run at any time, in any order, on any devices.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from vlm_mu_jax.evaluation import workdir as workdirs
from vlm_mu_jax.evaluation.answering import Making, answered
from vlm_mu_jax.evaluation.answers import answers_file, together
from vlm_mu_jax.evaluation.answers import share as shares
from vlm_mu_jax.evaluation.answers.share import Share
from vlm_mu_jax.evaluation.answers.suite_answers import ANSWERS, answers_path
from vlm_mu_jax.evaluation.questions.question import Question
from vlm_mu_jax.evaluation.questions.suite import Suite
from vlm_mu_jax.parallel.meeting import meet
from vlm_mu_jax.storage.model_folder import Model

SHARDS = "shards"


def part(suite: Suite, share: Share) -> Suite:
    """The share's questions of every set."""
    sets = {name: shares.dealt(questions, share) for name, questions in suite.sets.items()}
    return dataclasses.replace(suite, sets={name: some for name, some in sets.items() if some})


def check_number(workdir: str | Path, share: Share) -> None:
    """Raises InputError when the workdir holds shares of another number, which were dealt otherwise."""
    shares.check_number(Path(workdir) / SHARDS, share)


def answer_share(model: Model, suite: Suite, making: Making, workdir: str | Path, share: Share) -> int:
    """Answers a share into its own folder, where a killed job goes on; how many questions it has.

    Raises:
      InputError: shares of another number lie there, or answers that were made otherwise.
    """
    check_number(workdir, share)
    made = answered(model, part(suite, share), making, Path(workdir) / SHARDS / share.name, is_share=True)
    return sum(map(len, made.answers.values()))


def join(suite: Suite, workdir: str | Path) -> None:
    """Puts the answers of all shares into the workdir.

    Raises:
      InputError: answers are missing, which names their shares; or the shares were made with different settings.
    """
    folder = Path(workdir) / SHARDS
    there = shares.found(folder)
    if not there:
        return
    open_shares = []
    for share in shares.all_of(there):
        questions = part(suite, share)
        missing = sum(map(len, _unanswered(questions, [Path(workdir), folder / share.name]).sets.values()))
        if missing:
            open_shares.append(f"{share} ({missing} of {sum(map(len, questions.sets.values()))} answers)")
    shares.check_none_open(folder, open_shares)
    collect(workdir)
    for name, questions in suite.sets.items():
        path = answers_path(workdir, name)
        with answers_file.AnswersFile(path) as kept:
            keys = {(answer.id, answer.condition): answer.key for answer in kept.answers}
            kept.arrange(keys[q.id, q.condition] for q in questions)


def answer_together(
    model: Model, suite: Suite, making: Making, workdir: str | Path, tell: Callable[[str], None] | None = None
) -> None:
    """Answers the suite in all processes of a job; afterwards the workdir holds every answer.

    Every process calls this, with the model on its own devices; see `together.answer_together`.

    Raises:
      JobError: a process is gone.
    """
    workdir = Path(workdir)

    def answer(share: Share) -> None:
        rest = part(_unanswered(suite, [workdir]), share)
        answered(model, rest, making, workdir / SHARDS / share.name, is_share=True)

    together.answer_together(workdir, workdir / SHARDS, answer, lambda: collect(workdir), tell)
    meet("joining", tell=tell)


def collect(workdir: str | Path) -> None:
    """Moves the answers of all shares that there are into the workdir.

    Raises:
      InputError: they were made otherwise than those of the workdir or of each other.
    """
    folder = Path(workdir) / SHARDS
    there = shares.found(folder)
    for place in there.values():
        workdirs.open_workdir(workdir, *workdirs.read_workdir(place))
        for file in sorted((place / ANSWERS).rglob("*.jsonl")):
            shares.append(Path(workdir) / ANSWERS / file.relative_to(place / ANSWERS), [file])
    if there:
        shares.remove(folder)


def _unanswered(suite: Suite, folders: list[Path]) -> Suite:
    """The questions without an answer in these workdirs; of a dialogue all or none."""
    sets = {}
    for name, questions in suite.sets.items():
        known = {
            (answer.id, answer.condition) for at in folders for answer in answers_file.read(answers_path(at, name))
        }
        open_dialogues = {q.dialogue for q in questions if (q.id, q.condition) not in known}

        def is_open(question: Question, known=known, open_dialogues=open_dialogues) -> bool:
            if question.own_history:
                return question.dialogue in open_dialogues
            return (question.id, question.condition) not in known

        sets[name] = [question for question in questions if is_open(question)]
    return dataclasses.replace(suite, sets={name: some for name, some in sets.items() if some})
