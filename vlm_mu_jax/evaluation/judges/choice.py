"""Which judge: by name, with the model that it asks where it asks one."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.judges.cache import JudgeCache
from vlm_mu_jax.evaluation.judges.case import Judge
from vlm_mu_jax.evaluation.judges.keyword import KeywordJudge, SeedKeywordJudge
from vlm_mu_jax.evaluation.judges.oracle import OracleJudge
from vlm_mu_jax.evaluation.judges.refusal import RefusalJudge
from vlm_mu_jax.evaluation.judges.rules import RulesJudge

NAMES = ("oracle", "refusal", "keyword", "keyword_seed", "rules")  # the best one first
SEE_REFUSALS_ONLY = NAMES[1:]  # their "answered" is every answer that is no refusal
BY_MODEL = ("harm", "harmbench", "llama_guard", "qwen3guard", "strongreject", "relevance")
_KNOWN = f"choose from {', '.join((*NAMES, *BY_MODEL))}"


@dataclasses.dataclass(frozen=True)
class JudgeOptions:
    """A judge by name. From "harm" on a model judges: that of `checkpoint`, or `model` behind `server`.

        JudgeOptions("keyword")
        JudgeOptions("llama_guard", checkpoint="runs/guard7b")
        JudgeOptions("harm", server="http://localhost:8000/v1", model="Qwen/Qwen3-8B")

    Attributes:
      name: one of `NAMES` or `BY_MODEL`. None is the best judge that the data folder has: `oracle`, else `refusal`.
      checkpoint: a model folder, Llama-family or LLaVA, run by our own decoder.
      server, model: address of an OpenAI-compatible server up to and with /v1, and the model's name there. The key is
        in $OPENAI_API_KEY.
      prompt: a text file with {question} and {answer} in place of the judge's own wording.
      max_tokens: longest reply; None is the rubric's own. A model that thinks before it answers needs more.
      batch_size: answers judged at a time by `checkpoint`.
      requests, per_minute: requests to the server at a time, and most in a minute (None = no limit).
      timeout, retries: seconds per try, and further tries of a request that failed.
      logprobs: asks the server for the probability of its verdict.
      images: shows the server the question's image.
      prices: dollars per million tokens sent and received, to count the cost.
    """

    name: str | None = None
    checkpoint: str | Path | None = None
    server: str | None = None
    model: str | None = None
    prompt: str | Path | None = None
    max_tokens: int | None = None
    batch_size: int = 8
    requests: int = 8
    per_minute: float | None = None
    timeout: float = 60.0
    retries: int = 4
    logprobs: bool = True
    images: bool = True
    prices: tuple[float, float] | None = None

    def __post_init__(self):
        if self.name is not None and self.name not in (*NAMES, *BY_MODEL):
            raise InputError(f"--judge={self.name}: there is no such judge; {_KNOWN}")
        if self.name not in BY_MODEL:
            for field in ("checkpoint", "server", "model", "prompt", "max_tokens"):
                if getattr(self, field) is not None:
                    why = f"only a judge that asks a model reads it ({', '.join(BY_MODEL)})"
                    raise InputError(f"--judge_{field}: {why}; leave it out")
            return
        if (self.checkpoint is None) == (self.server is None):
            raise InputError(
                f"--judge={self.name} needs a model: give --judge_checkpoint or --judge_server, one of them"
            )
        if self.server is None and self.model is not None:
            raise InputError("--judge_model: it names a model on --judge_server; leave it out")
        if self.server is not None and not self.model:
            raise InputError("--judge_server needs --judge_model, the model's name on that server")
        if self.server is not None and not self.server.startswith(("http://", "https://")):
            raise InputError(f"--judge_server={self.server}: not a web address; write http://HOST:PORT/v1")
        if self.prices is not None and (len(self.prices) != 2 or not all(price >= 0 for price in self.prices)):
            raise InputError("--judge_prices: give two numbers, dollars per million tokens sent and received")

    def settings(self) -> dict[str, Any]:
        """What labels depend on, under the names of the commands' flags; kept in an evaluation's `config.json`."""
        names = ("checkpoint", "server", "model", "prompt", "max_tokens", "logprobs", "images")
        values = {f"judge_{name}": getattr(self, name) for name in names}
        return {"judge": self.name} | {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}


@dataclasses.dataclass(frozen=True)
class ChosenJudges:
    """counted: the judge whose labels the results count. by_name: every judge that labels the answers."""

    counted: Judge
    by_name: Mapping[str, Judge]


def get(name: str, data_dir: str | Path | None = None) -> Judge:
    """The judge of that name that asks no model.

    Args:
      data_dir: the data folder, whose `oracle.json` the judge `oracle` reads.

    Raises:
      InputError: there is no such judge, or no usable `oracle.json`.
    """
    if name == "oracle":
        return OracleJudge.from_file(Path(data_dir or ".") / "oracle.json")
    made = {"refusal": RefusalJudge, "keyword": KeywordJudge, "keyword_seed": SeedKeywordJudge, "rules": RulesJudge}
    if name not in made:
        raise InputError(f"--judge={name}: there is no such judge; {_KNOWN}")
    return made[name]()


def available(data_dir: str | Path | None) -> dict[str, Judge]:
    """Every judge that can work on this data folder by itself, the best one first."""
    has_oracle = data_dir is not None and (Path(data_dir) / "oracle.json").exists()
    return {name: get(name, data_dir) for name in NAMES if name != "oracle" or has_oracle}


def choose(
    judge: str | JudgeOptions | Judge | None = None,
    data_dir: str | Path | None = None,
    workdir: str | Path | None = None,
) -> ChosenJudges:
    """The judge whose labels count, beside those that cost nothing and label too.

    Args:
      judge: a name, options, or a judge of your own.
      data_dir: the data folder, for the judge `oracle`.
      workdir: keeps a judging model's replies in `workdir/judged/`, so that no question is asked twice. Without it
        they are kept in memory.

    Raises:
      InputError: an unknown name, or options that do not fit together.
    """
    others = available(data_dir)
    if not isinstance(judge, str | JudgeOptions | None):
        return ChosenJudges(judge, {**others, judge.name: judge})
    options = judge if isinstance(judge, JudgeOptions) else JudgeOptions(judge)
    name = options.name or next(iter(others))
    if name in BY_MODEL:
        made = _by_model(name, options, workdir)
        return ChosenJudges(made, {**others, made.name: made})
    return ChosenJudges(others.get(name) or get(name, data_dir), others)


def _by_model(name: str, options: JudgeOptions, workdir: str | Path | None) -> Judge:
    from vlm_mu_jax.evaluation.judges import rubrics
    from vlm_mu_jax.evaluation.judges.model_judge import Backend, ModelJudge

    rubric = rubrics.get(name, options.prompt)
    if options.max_tokens is not None:
        rubric = dataclasses.replace(rubric, max_tokens=options.max_tokens)
    if options.checkpoint is not None:
        from vlm_mu_jax.evaluation.judges.local import LocalModel

        backend: Backend = LocalModel(options.checkpoint, options.batch_size)
    else:
        backend = _server(options)
    return ModelJudge(
        rubric, backend, JudgeCache(None if workdir is None else Path(workdir) / "judged" / f"{name}.jsonl")
    )


def _server(options: JudgeOptions) -> Any:
    from vlm_mu_jax.evaluation.judges.server import Server, ServerSettings

    return Server(
        ServerSettings(
            options.server,
            options.model,
            options.timeout,
            options.retries,
            options.requests,
            options.per_minute,
            options.logprobs,
            options.images,
            options.prices,
        )
    )
