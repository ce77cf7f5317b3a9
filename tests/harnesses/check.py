"""Checks that another project's harness works against `bin/serve`: `bin/check_harness NAME`.

The harness is installed into an environment of its own, from the package index, the first time. A tiny model is
served on loopback, the harness asks it, and its own result file is read back: every answer there must be the one that
the server gives to the same question when it is asked directly.
"""

import argparse
import base64
import contextlib
import dataclasses
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tests.evaluation.conftest import CONFIG, make_params, make_tokenizer
from tests.harnesses import steered
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.storage.model_folder import write_model_folder

ROOT = Path(__file__).resolve().parents[2]
RECIPES = Path(__file__).with_name("recipes")
SERVED = "http://127.0.0.1:8000"  # in the recipes; the check's server is elsewhere
STEERED = "llama-cpp"  # asks no server: it steers a model with an exported guard
QUESTIONS = ("what is it ?", "why is it so ?", "where is the other one ?")


@dataclasses.dataclass(frozen=True)
class Harness:
    """packages: installed with these versions. command: run in a copy of the recipes. answers: reads the result file,
    and gives (question, answer) pairs. environment: further variables."""

    packages: tuple[str, ...]
    command: str
    answers: Callable[[Path], list[tuple[str, str]]]
    environment: dict[str, str] = dataclasses.field(default_factory=dict)


def of_inspect(folder: Path) -> list[tuple[str, str]]:
    log = json.loads(next((folder / "logs").glob("*.json")).read_text())
    assert log["status"] == "success", log["status"]
    assert log["results"]["scores"][0]["name"] == "refused"
    pairs = []
    for sample in log["samples"]:
        assert sample["scores"]["refused"]["answer"] == sample["output"]["choices"][0]["message"]["content"]
        pairs.append((sample["metadata"]["question"], sample["output"]["choices"][0]["message"]["content"]))
    return pairs


def of_garak(folder: Path) -> list[tuple[str, str]]:
    lines = [json.loads(line) for line in next(folder.rglob("signs.report.jsonl")).read_text().splitlines()]
    evaluated = [line for line in lines if line["entry_type"] == "eval"]
    assert evaluated and all(line["probe"] == "test.Test" for line in evaluated), evaluated
    done = [line for line in lines if line["entry_type"] == "attempt" and line["status"] == 2]
    pairs = []
    for line in done:
        asked = line["prompt"]["turns"][-1]["content"]["text"]
        pairs += [(asked, output["text"]) for output in line["outputs"]]
    return pairs


def of_pyrit(folder: Path) -> list[tuple[str, str]]:
    with contextlib.closing(sqlite3.connect(folder / "pyrit.db")) as database:
        rows = database.execute(
            'SELECT conversation_id, role, converted_value FROM "PromptMemoryEntries"'
            " WHERE converted_value_data_type = 'text' ORDER BY sequence"
        ).fetchall()
        outcomes = database.execute('SELECT outcome FROM "AttackResultEntries"').fetchall()
    assert len(outcomes) == len(QUESTIONS) and {one for (one,) in outcomes} <= {"success", "failure"}, outcomes
    asked = {conversation: text for conversation, role, text in rows if role == "user"}
    return [(asked[conversation], text) for conversation, role, text in rows if role == "assistant"]


def of_lmms_eval(folder: Path) -> list[tuple[str, str]]:
    results = json.loads(next((folder / "out").rglob("*_results.json")).read_text())
    assert 0 <= results["results"]["signs"]["refused,none"] <= 1
    lines = next((folder / "out").rglob("*_samples_signs.jsonl")).read_text().splitlines()
    return [(row["target"], row["filtered_resps"]) for row in map(json.loads, lines)]


def of_langchain(folder: Path) -> list[tuple[str, str]]:
    answers = json.loads((folder / "answers.json").read_text())
    assert all(one["answer"] == one["streamed"] for one in answers)
    return [(question, one["answer"]) for question, one in zip(QUESTIONS, answers, strict=True)]


HARNESSES = {
    "inspect-ai": Harness(
        ("inspect-ai==0.3.285", "openai==3.57.0", "numpy"),
        "inspect eval inspect_signs.py --model openai-api/local/npo --log-dir logs --log-format json --display plain",
        of_inspect,
        {"LOCAL_BASE_URL": f"{SERVED}/v1", "LOCAL_API_KEY": "none"},
    ),
    "garak": Harness(
        ("garak==0.17.1",),
        "garak --target_type openai.OpenAICompatible --target_name npo --generator_option_file garak_options.json"
        " --probes test.Test --generations 2 --report_prefix signs",
        of_garak,
        {"OPENAICOMPATIBLE_API_KEY": "none", "XDG_DATA_HOME": "garak"},
    ),
    "pyrit": Harness(("pyrit==1.1.0",), "python pyrit_signs.py", of_pyrit),
    "lmms-eval": Harness(
        ("lmms-eval==0.7.3", "filelock<3.30"),
        f"lmms-eval --model openai --model_args model=npo,base_url={SERVED}/v1,api_key=none"
        " --include_path lmms_signs --tasks signs --batch_size 1 --output_path out --log_samples",
        of_lmms_eval,
        {"HF_HUB_OFFLINE": "1"},
    ),
    "langchain": Harness(("langchain-openai==1.7.4",), "python langchain_signs.py", of_langchain),
}


def environment_of(name: str, packages: tuple[str, ...]) -> Path:
    """The folder of the harness's programs; it is installed if it is not there in these versions."""
    cache = os.environ.get("VLM_MU_HARNESSES", "~/.cache/vlm_mu_jax/harnesses")
    folder = Path(cache).expanduser() / name
    stamp = folder / "installed"
    if not stamp.is_file() or stamp.read_text() != " ".join(packages):
        print(f"installing {' '.join(packages)} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "-q", *packages], check=True)
        stamp.write_text(" ".join(packages))
    return folder / "bin"


def write_model(folder: Path) -> Path:
    """A tiny random model with a character-level tokenizer, as a model folder."""
    source = folder / "source"
    source.mkdir()
    make_tokenizer().save_pretrained(source)
    sizes = {"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}}
    settings = sizes | {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (source / "preprocessor_config.json").write_text(json.dumps(settings))
    params = make_params(from_hf(CONFIG), 0)
    return write_model_folder(folder / "npo", params, CONFIG, source, "llava_hf", "llava_v4", {"source": "tiny"})


def write_questions(folder: Path) -> None:
    """questions.jsonl and its images."""
    lines = []
    for number, question in enumerate(QUESTIONS):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "question": question}))
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n")


@contextlib.contextmanager
def serving(model: Path) -> Iterator[str]:
    """`bin/serve` on a free port; yields its address."""
    words = [sys.executable, "-m", "vlm_mu_jax.cli.serve", f"--checkpoint=npo={model}", "--port=0"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            line = next(line for line in server.stdout if line.startswith("serving"))
            yield line.split()[-1].removesuffix("/v1")
        finally:
            server.terminate()


def asked_directly(url: str, question: str, image: Path | None) -> str:
    content = [{"type": "text", "text": question}]
    if image is not None:
        data = base64.b64encode(image.read_bytes()).decode()
        content.insert(0, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}})
    body = {"model": "npo", "messages": [{"role": "user", "content": content}], "max_tokens": 16}
    asked = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked) as answer:
        return json.load(answer)["choices"][0]["message"]["content"]


def check(name: str) -> int:
    """Runs the harness; the number of answers that were compared. Raises AssertionError."""
    harness = HARNESSES[name]
    programs = environment_of(name, harness.packages)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch) / "work"
        shutil.copytree(RECIPES, work)
        write_questions(work)
        with serving(write_model(Path(scratch))) as url:
            for file in (path for path in work.rglob("*") if path.suffix in (".py", ".json", ".yaml")):
                file.write_text(file.read_text().replace(SERVED, url))
            command = harness.command.replace(SERVED, url)
            variables = {key: value.replace(SERVED, url) for key, value in harness.environment.items()}
            variables |= {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": f"{ROOT}:{work / 'lmms_signs'}"}
            variables |= {"HOME": scratch, "HF_HOME": f"{scratch}/hf"}
            if "XDG_DATA_HOME" in variables:
                variables["XDG_DATA_HOME"] = str(work / variables["XDG_DATA_HOME"])
            done = subprocess.run(
                ["bash", "-c", command], cwd=work, env=os.environ | variables, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            pairs = harness.answers(work)
            for question, answer in pairs:
                image = work / f"{QUESTIONS.index(question)}.png" if question in QUESTIONS else None
                wanted = asked_directly(url, question, image)
                assert answer == wanted, f"{question!r}: {answer!r} in the result file, {wanted!r} from the server"
    assert len(pairs) >= len(QUESTIONS), pairs
    return len(pairs)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bin/check_harness", description=__doc__)
    parser.add_argument("name", choices=[*HARNESSES, STEERED])
    name = parser.parse_args().name
    try:
        if name == STEERED:
            tokens = steered.check(environment_of(name, steered.PACKAGES), RECIPES / "llama_steered.py")
            print(f"{name}: {tokens} tokens of steered answers, all as ours")
            return 0
        count = check(name)
    except AssertionError as error:
        print(f"error: {name}: {error}", file=sys.stderr)
        return 1
    print(f"{name}: {count} answers in its result file, all as the server gives them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
