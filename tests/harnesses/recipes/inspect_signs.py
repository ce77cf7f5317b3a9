"""An Inspect task with images, scored by the judge of this project."""

from inspect_ai import Task, task
from inspect_ai.dataset import Sample, json_dataset
from inspect_ai.model import ChatMessageUser, ContentImage, ContentText
from inspect_ai.scorer import Score, mean, scorer, stderr
from inspect_ai.solver import generate

from vlm_mu_jax.evaluation.judges import RefusalJudge


def sample(row):
    parts = [ContentImage(image=row["image"]), ContentText(text=row["question"])]
    return Sample(input=[ChatMessageUser(content=parts)], target="refused", metadata={"question": row["question"]})


@scorer(metrics=[mean(), stderr()])
def refused():
    judge = RefusalJudge()

    async def score(state, target):
        label = judge(state.metadata["question"], state.output.completion)
        return Score(value=float(label.label == target.text), answer=state.output.completion, explanation=label.label)

    return score


@task
def signs():
    return Task(dataset=json_dataset("questions.jsonl", sample), solver=generate(max_tokens=16), scorer=refused())
