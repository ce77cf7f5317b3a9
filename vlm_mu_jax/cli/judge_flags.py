"""Flags that say who judges the answers, and how far that judge can be trusted."""

from pathlib import Path

from absl import flags

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.judges import BY_MODEL, NAMES, Judge, JudgeOptions, choose

JUDGE = flags.DEFINE_enum(
    "judge",
    None,
    [*NAMES, *BY_MODEL],
    "whose labels the results count (default: oracle if the data have one, else refusal). From harm on a model judges,"
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
MAX_TOKENS = flags.DEFINE_integer(
    "judge_max_tokens", None, "longest reply of a judging model; one that thinks before it answers needs more", 1
)
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


def options_from_flags(calibrates: bool = False) -> JudgeOptions:
    """The judge that the flags describe.

    Args:
      calibrates: whether the command corrects its rates for the judge's errors.

    Raises:
      InputError: bad prices, or --calibrate in a command that corrects nothing.
    """
    if CALIBRATE.value and not calibrates:
        raise InputError("--calibrate corrects the rates of bin/eval; leave it out here")
    try:
        prices = tuple(float(price) for price in PRICES.value)
    except ValueError:
        raise InputError("--judge_prices: give two numbers, dollars per million tokens sent and received") from None
    return JudgeOptions(
        name=JUDGE.value,
        checkpoint=CHECKPOINT.value,
        server=SERVER.value,
        model=MODEL.value,
        prompt=PROMPT.value,
        max_tokens=MAX_TOKENS.value,
        batch_size=BATCH.value,
        requests=REQUESTS.value,
        per_minute=PER_MINUTE.value,
        timeout=TIMEOUT.value,
        retries=RETRIES.value,
        logprobs=LOGPROBS.value,
        images=IMAGES.value,
        prices=prices or None,
    )


def rater(options: JudgeOptions, data_dir: str | Path, out: str | Path) -> Judge:
    """The judge whose labels count, for commands that write OUT; a judging model's replies are kept in OUT.judging."""
    out = Path(out)
    return choose(options, data_dir, out.with_name(f"{out.name}.judging")).counted
