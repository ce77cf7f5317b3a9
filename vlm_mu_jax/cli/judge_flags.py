"""Flags that say who judges the answers, and how far that judge can be trusted."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

BY_MODEL = ("harm", "harmbench", "llama_guard", "strongreject", "relevance")
JUDGE = flags.DEFINE_enum(
    "judge",
    None,
    ["oracle", "keyword", "keyword_seed", "rules", *BY_MODEL],
    "whose labels the results count (default: oracle if the data have one, else keyword). From harm on a model judges,"
    " of --judge_checkpoint or --judge_server",
)
CHECKPOINT = flags.DEFINE_string("judge_checkpoint", None, "model folder that judges: Llama-family, or a LLaVA")
SERVER = flags.DEFINE_string(
    "judge_server",
    None,
    "address of an OpenAI-compatible server, such as http://localhost:8000/v1; key in $OPENAI_API_KEY",
)
MODEL = flags.DEFINE_string("judge_model", None, "name of the model on the server")
PROMPT = flags.DEFINE_string("judge_prompt", None, "text file with {question} and {answer} in place of the judge's own")
BATCH = flags.DEFINE_integer("judge_batch_size", 8, "answers judged at a time by --judge_checkpoint", lower_bound=1)
REQUESTS = flags.DEFINE_integer("judge_requests", 8, "requests to the server at a time", lower_bound=1)
PER_MINUTE = flags.DEFINE_float("judge_per_minute", None, "most requests to the server in a minute", lower_bound=0.1)
TIMEOUT = flags.DEFINE_float("judge_timeout", 60.0, "seconds to wait for a reply of the server", lower_bound=0.1)
RETRIES = flags.DEFINE_integer("judge_retries", 4, "further tries of a request that failed", lower_bound=0)
LOGPROBS = flags.DEFINE_bool(
    "judge_logprobs", True, "ask the server how probable its verdict is; some servers refuse that, others say nothing"
)
IMAGES = flags.DEFINE_bool("judge_images", True, "show the server the question's image")
PRICES = flags.DEFINE_list(
    "judge_prices", [], "dollars per million tokens sent and received, such as 0.15,0.60: counts the cost"
)
CALIBRATE = flags.DEFINE_string(
    "calibrate",
    None,
    "CSV with question, answer, label (by people): how far the judge agrees, and rates corrected for it",
)
DETECT = flags.DEFINE_float(
    "detect", 0.1, "difference of rates for which the needed number of questions is printed", 0.001, 1.0
)
SETTINGS = (JUDGE, CHECKPOINT, SERVER, MODEL, PROMPT, LOGPROBS, IMAGES, CALIBRATE)  # what labels depend on


def choose(data_dir: str | Path, workdir: str | Path) -> tuple[Any, dict[str, Any]]:
    """(the judge whose labels count, all judges to run by name). Raises InputError for flags that do not fit."""
    from vlm_mu_jax.evaluation import judges

    available = judges.available(data_dir)
    name = JUDGE.value or next(iter(available))
    if name in BY_MODEL:
        judge = _by_model(name, Path(workdir))
        return judge, {**available, judge.name: judge}
    _refuse((CHECKPOINT, SERVER, MODEL, PROMPT), f"only a judge that asks a model reads it ({', '.join(BY_MODEL)})")
    return available.get(name) or judges.get(name, data_dir), available


def refuse_calibration() -> None:
    """For commands whose rates are not corrected for the judge's errors."""
    from vlm_mu_jax.errors import InputError

    if CALIBRATE.value:
        raise InputError("--calibrate corrects the rates of bin/eval; leave it out here")


def rater(data_dir: str | Path, out: str | Path) -> Any:
    """The judge whose labels count, for other commands than bin/eval; the verdicts of a model are kept in OUT.judging.

    Raises InputError as `choose` does, and for --calibrate.
    """
    refuse_calibration()
    out = Path(out)
    return choose(data_dir, out.with_name(f"{out.name}.judging"))[0]


def labelled() -> list[Any]:
    """The rows of --calibrate, none without it; read before the long work, so that a bad file fails early."""
    if not CALIBRATE.value:
        return []
    from vlm_mu_jax.evaluation.judges import calibration

    return calibration.read(CALIBRATE.value)


def agreement(judge: Any, rows: list[Any], progress: Any) -> Mapping[str, Any] | None:
    """The judge's agreement with the people who labelled these rows; None without rows."""
    if not rows:
        return None
    from vlm_mu_jax.evaluation import judges
    from vlm_mu_jax.evaluation.judges import calibration

    return calibration.calibrate(rows, lambda cases: judges.judge_many(judge, cases, progress))


def advice(run: Mapping[str, Any], comparisons: list[Mapping[str, Any]]) -> str | None:
    """One line on how many questions show a difference of --detect in attack success (after the attack, if there is
    one); None where no attack success was measured."""
    from vlm_mu_jax.evaluation import statistics

    name = next((n for n in ("asr_after", "asr_before") if run["metrics"].get(n, {}).get("n")), None)
    if name is None:
        return None
    metric, d = run["metrics"][name], DETECT.value
    rate = min(max(metric["value"], 0.0), 1.0)
    if rate < d and rate + d > 1:
        return None
    paired = next((c for c in comparisons if c["metric"] == name and c["n"]), None)
    seen = (paired["b"] + paired["c"]) / paired["n"] if paired else None
    discordant = max(d, statistics.independent_discordance(rate, d) if seen is None else seen)
    source = "as against the baseline" if seen is not None and seen >= d else "at most"
    return (
        f"to show a difference of {100 * d:g} points in {name} (power 80 %, p < 0.05):"
        f" {statistics.pairs_needed(d, discordant)} questions asked of both models"
        f" (answers differ on {100 * discordant:.0f} % of them, {source}),"
        f" or {statistics.questions_needed(rate, d)} different ones each; here {metric['n']}"
    )


def _by_model(name: str, workdir: Path) -> Any:
    from vlm_mu_jax.errors import InputError
    from vlm_mu_jax.evaluation.judges import rubrics
    from vlm_mu_jax.evaluation.judges.cache import JudgeCache
    from vlm_mu_jax.evaluation.judges.model_judge import ModelJudge

    if (CHECKPOINT.value is None) == (SERVER.value is None):
        raise InputError(f"--judge={name} needs a model: give --judge_checkpoint or --judge_server, one of them")
    rubric = rubrics.get(name, PROMPT.value)
    if CHECKPOINT.value is not None:
        from vlm_mu_jax.evaluation.judges.local import LocalModel

        _refuse((MODEL,), "it names a model on --judge_server")
        backend: Any = LocalModel(CHECKPOINT.value, BATCH.value)
    else:
        backend = _server()
    return ModelJudge(rubric, backend, JudgeCache(workdir / "judged" / f"{name}.jsonl"))


def _server() -> Any:
    from vlm_mu_jax.errors import InputError
    from vlm_mu_jax.evaluation.judges.server import Server, ServerSettings

    if not MODEL.value:
        raise InputError("--judge_server needs --judge_model, the model's name on that server")
    if not SERVER.value.startswith(("http://", "https://")):
        raise InputError(f"--judge_server={SERVER.value}: not a web address; write http://HOST:PORT/v1")
    try:
        prices = tuple(float(price) for price in PRICES.value)
    except ValueError:
        prices = (-1.0,)
    if len(prices) not in (0, 2) or any(price < 0 for price in prices):
        raise InputError("--judge_prices: give two numbers, dollars per million tokens sent and received")
    return Server(
        ServerSettings(
            SERVER.value,
            MODEL.value,
            TIMEOUT.value,
            RETRIES.value,
            REQUESTS.value,
            PER_MINUTE.value,
            LOGPROBS.value,
            IMAGES.value,
            prices or None,
        )
    )


def _refuse(some: tuple[Any, ...], why: str) -> None:
    from vlm_mu_jax.errors import InputError

    given = [flag.name for flag in some if flag.value is not None]
    if given:
        raise InputError(f"--{given[0]}: {why}; leave it out")
