"""Every command of the product on a tiny checkpoint of every family (tests/families.py).

The cells are those of the table in docs/models.md. Each checks what only this command on this family can get wrong;
what is inside a command is tested elsewhere. Commands run through the functions that they call.
"""

import dataclasses
import functools
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel
from PIL import Image
from safetensors.numpy import load_file

import vlm_mu_jax
from tests.families import FAMILIES
from vlm_mu_jax.attacks.margin.openings import from_texts
from vlm_mu_jax.attacks.margin.search_run import SearchTarget
from vlm_mu_jax.attacks.words import search
from vlm_mu_jax.data import readers
from vlm_mu_jax.data.placing import place
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.judges import get
from vlm_mu_jax.model.vlm import forward
from vlm_mu_jax.planning.jobs import model_config
from vlm_mu_jax.planning.plan import plan as plan_job
from vlm_mu_jax.planning.topology import target
from vlm_mu_jax.training import relearning
from vlm_mu_jax.training.settings import checked, defaults

ROOT = Path(__file__).resolve().parents[2]
REFUSAL, ANSWER = "Sorry, i cannot help with this", "take it , then turn it"
QUESTION = "share the steps of the dax on this sign ?"
SHAPES = ((20, 44), (50, 9), (9, 9), (31, 33))  # width, height
TOKENS = 3
OPENING = "i"  # one token: programs of longer ones hold the decoder once for each
logits_of = jax.jit(lambda params, batch, cfg: forward(params, batch, cfg).logits_BTV, static_argnames="cfg")


def write_data(folder: Path) -> None:
    """VLGuard files ("share" opens unsafe questions, "what" safe ones), requests, anchors, and answers to forget."""
    rng, asked, forget = np.random.default_rng(0), [], []
    for split, count in (("train", 8), ("test", 4)):
        (folder / split).mkdir(parents=True)
        rows = []
        for i in range(count):
            image, unsafe = f"{split}/{i}.png", i % 2 == 0
            size = SHAPES[i // 2 % len(SHAPES)][::-1]  # both kinds of question have pictures of the same sizes
            Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / image)
            key, text = ("instruction", QUESTION) if unsafe else ("safe_instruction", QUESTION.replace("share", "what"))
            pairs = [{key: text, "response": REFUSAL if unsafe else ANSWER}]
            about = {"harmful_category": "none", "harmful_subcategory": "none"}
            rows.append({"id": f"{split}{i}", "image": image, "safe": not unsafe, "instr-resp": pairs, **about})
            kind = "unsafe" if unsafe else "safe"
            asked.append({"id": f"q{split}{i}", "question": text, "answer": ANSWER, "kind": kind, "image": image})
        (folder / f"{split}.json").write_text(json.dumps(rows))
    for record in readers.read(folder / "train.json"):
        if record.kind == "unsafe":
            labels = {"refusal": {"label": "answered"}}
            line = {"id": record.id, "condition": {"attack": "none"}, "prompt_sha": "0", "question": record.question}
            forget.append(json.dumps(line | {"answer": ANSWER, "tokens": 6, "labels": labels}) + "\n")
    (folder / "forget.jsonl").write_text("".join(forget))
    (folder / "text_harm.json").write_text(json.dumps(asked[:4]))
    anchors = [{"harmful": f"share the {noun}", "harmless": f"what the {noun}"} for noun in ("dax", "wug", "fep")]
    (folder / "anchors.json").write_text(json.dumps(anchors))


class Home:
    """A family's folder: `hf/`, `ours/` and `data/`, and what later cells need of earlier ones, made on demand."""

    def __init__(self, name: str, top: Path) -> None:
        self.family, self.top, self.data = FAMILIES[name], top, top / "data"
        self.family.write(top / "hf")
        write_data(self.data)

    @functools.cached_property
    def model(self):
        vlm_mu_jax.convert(self.top / "hf", self.top / "ours")
        return vlm_mu_jax.load(self.top / "ours")

    @functools.cached_property
    def theirs(self):
        return transformers.AutoModelForImageTextToText.from_pretrained(self.top / "hf").eval()

    @functools.cached_property
    def guard(self):
        options = vlm_mu_jax.ExtractOptions(layers="1", using={"scope": "all"}, batch_size=4)
        return vlm_mu_jax.extract_guard(self.model, self.data / "anchors.json", options)

    @functools.cached_property
    def npo(self):
        return self.trained("npo", {"select": (), "lora_rank": 2})

    def trained(self, objective: str, train: dict, **options):
        assert self.model
        config = defaults(objective, **options)
        config.model.init = str(self.top / "ours")
        config.train.update(train)
        config.data.update(root=str(self.data), safety="train.json", forget_answers="forget.jsonl")
        config.optim.learning_rate = 0.01
        config.update(steps=1, batch_size=2)
        return vlm_mu_jax.train(checked(config), self.top / objective)

    def inputs(self, image: Path | None):
        """What transformers' own processor makes of the question."""
        content = [] if image is None else [{"type": "image", "path": str(image)}]
        turns = [{"role": "user", "content": [*content, {"type": "text", "text": QUESTION}]}]
        processor = self.family.processor(self.top / "hf")
        how = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
        return processor.apply_chat_template(turns, **how)

    def image(self, i: int) -> Path:
        return self.data / "train" / f"{i}.png"


def convert(home):
    """Our folder holds the checkpoint, and gives the same tensors back."""
    assert home.model
    vlm_mu_jax.export(home.top / "ours", home.top / "back")
    want, got = (load_file(home.top / name / "model.safetensors") for name in ("hf", "back"))
    assert got.keys() == want.keys() and all(got[key].tobytes() == want[key].tobytes() for key in want)


def generate(home):
    """Prompt and greedy tokens are those of transformers, from image files of three shapes and without one."""
    for image in (*map(home.image, (0, 2, 4)), None):
        inputs, images = home.inputs(image), () if image is None else (image,)
        ours = vlm_mu_jax.answer(home.model, QUESTION, images, max_new_tokens=TOKENS)
        assert ours.prompt_token_ids == inputs["input_ids"][0].tolist()
        barred = [home.model.config.image_token_id]
        made = home.theirs.generate(**inputs, max_new_tokens=TOKENS, do_sample=False, suppress_tokens=barred)
        assert ours.token_ids == made[0, inputs["input_ids"].shape[1] :].tolist()


def evaluate(home):
    options = vlm_mu_jax.EvaluateOptions(max_questions=2, max_new_tokens=TOKENS, batch_size=4)
    found = vlm_mu_jax.evaluate(home.model, home.data, options)
    assert found.metric("asr_before").n == 2 and set(found.metrics["gap"]) == {"text_only", "blank_image", "own_image"}


def audit(home):
    """The words of the data, and which of them decide whether this model refuses."""
    records = readers.read(home.data / "train.json")
    assert vlm_mu_jax.audit(records).to_dict()["over_refuse_candidates"][0]["word"] == "share"
    (asked,) = vlm_mu_jax.record_saliency(home.model, records, 1)["questions"]
    assert np.ptp([word["removal"] for word in asked["words"]]) > 0


def word_search(home):
    """Margins on the shared prefix are those of whole prompts."""
    model, words, openings = home.model, ("what", "please"), from_texts((OPENING,), home.model.processor)
    ((refusal,),) = openings.refusal
    asks = [search.SearchQuestion(QUESTION, model.processor.pixels(home.image(i))) for i in (0, 1)]
    found = search.search(model, asks, words, SearchTarget(openings), search.SearchOptions(block=4))["question_start"]
    for ask, margins in zip(asks, found.margins_QW, strict=True):
        texts = [place(ask.question, word, "question_start", "swap").question for word in words]
        rows = [model.processor.prompt_ids(text, [ask.image]) for text in texts]
        batch = model.processor.pad(rows, [[ask.image]] * 2, multiple=64)
        logits = np.asarray(logits_of(model.params, batch, model.config))[np.arange(2), [len(row) - 1 for row in rows]]
        p = np.exp(logits[:, refusal] - np.log(np.exp(logits).sum(-1)))
        np.testing.assert_allclose(margins, np.log(p) - np.log1p(-p), atol=1e-4)
    attack(home, words=vlm_mu_jax.WordOptions(candidates=words, shortlist=2, block=4))


def attack(home, **options):
    brief = {"goals": ("jailbreak",), "shots": 1, "search_questions": 1, "verify_questions": 1, "batch_size": 4}
    chosen = vlm_mu_jax.AttackOptions(**brief, max_new_tokens=TOKENS, openings=(OPENING,), **options)
    found = vlm_mu_jax.attack(home.model, home.data, chosen)
    assert found.measured["jailbreak"].any_of_k.n == 1
    return found


def gcg(home):
    attack(home, method="gcg", suffix=vlm_mu_jax.SuffixOptions(steps=1, candidates=4, length=3, block=4))


def pgd(home):
    attack(home, method="pgd", pixels=vlm_mu_jax.PixelOptions(steps=1))


def guard_extract(home):
    assert np.isfinite(home.guard.directions.basis_LMD).all()


def guard_select(home):
    options = vlm_mu_jax.SelectOptions(
        operators=("amplify",),
        strengths=(2.0,),
        layer_sets=("1",),
        scopes=("all",),
        validation_share=1.0,
        max_new_tokens=TOKENS,
        batch_size=4,
    )
    requests = readers.read(home.data / "text_harm.json")
    requests = dataclasses.replace(requests, items=requests.items[:2])  # of pictures of one size: few programs
    chosen = vlm_mu_jax.select_guard(home.model, home.guard, requests, get("refusal"), options)
    assert [row["operator"] for row in chosen.selection.rows] == ["off", "amplify"]


def guard_apply(home):
    options = vlm_mu_jax.ApplyOptions(images=("own", "none"), max_new_tokens=TOKENS, batch_size=2)
    requests = readers.read(home.data / "text_harm.json")
    assert len(vlm_mu_jax.apply_guard(home.model, home.guard, requests, get("refusal"), options).answers) == 8


def guard_bake(home):
    """transformers, with the module, makes the tokens of the guarded model."""
    guard = home.guard.using(operator="add", strength=3.0, layers=(1,), gate="none", scope="last")
    folder = vlm_mu_jax.bake_guard(home.model, guard, home.top / "baked", module=True)
    theirs = transformers.AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
    inputs = home.inputs(home.image(0))
    ours = vlm_mu_jax.answer(home.model, QUESTION, [home.image(0)], max_new_tokens=TOKENS, guard=guard)
    barred = [home.model.config.image_token_id]
    made = theirs.generate(**inputs, max_new_tokens=TOKENS, do_sample=False, suppress_tokens=barred)
    assert ours.token_ids == made[0, inputs["input_ids"].shape[1] :].tolist()


def train_npo_lora(home):
    assert np.isfinite(home.npo.last["loss"])


def train_rmu(home):
    trained = home.trained("rmu", {"select": ("projector/.*",), "slices": {"decoder/layers/wdown_LFD": (1,)}}, layer=1)
    assert np.isfinite(trained.last["loss"])


def export(home):
    """The trained model, whole and as base and adapter: transformers' logits are ours, and no more the base's."""
    image = home.image(1)
    inputs, whole, adapter = home.inputs(image), home.top / "npo_hf", home.top / "npo_adapter"
    vlm_mu_jax.export(home.npo.workdir, whole)
    vlm_mu_jax.export(home.npo.workdir, adapter, vlm_mu_jax.ExportOptions(what="adapter"))
    model = home.npo.model
    batch = model.processor.pad(
        [model.processor.prompt_ids(QUESTION, [image])], [[model.processor.pixels(image)]], multiple=64
    )
    ours = np.asarray(logits_of(model.params, batch, model.config))[0, : inputs["input_ids"].shape[1]]
    with torch.no_grad():
        base = home.theirs(**inputs).logits[0].numpy()
        merged = type(home.theirs).from_pretrained(whole).eval()(**inputs).logits[0].numpy()
        fresh = type(home.theirs).from_pretrained(home.top / "hf")
        adapted = PeftModel.from_pretrained(fresh, adapter).eval()(**inputs).logits[0].numpy()
    np.testing.assert_allclose(ours, merged, atol=1e-4)
    np.testing.assert_allclose(adapted, merged, atol=1e-4)
    assert np.abs(merged - base).max() > 1e-2


def relearn(home):
    asked = vlm_mu_jax.QuestionOptions(
        str(home.data), subset="test", questions=1, batch_size=4, max_new_tokens=TOKENS, judge="refusal"
    )
    records = relearning.harmless_records(home.data / "train.json")
    options = vlm_mu_jax.RelearnOptions(asked, steps=1, every=1, batch_size=2)
    assert [point.step for point in vlm_mu_jax.relearn(home.model, records, options).curve] == [0, 1]


def plan(home):
    pytest.importorskip("libtpu", reason="needs the TPU compiler: pip install 'vlm_mu_jax[tpu]'")
    assert home.model
    config = defaults("sft")
    config.model.init = str(home.top / "ours")
    config.data.max_length = 64
    config.train.update(select=(), lora_rank=2)
    settings = checked(config)
    jax.config.update("jax_exec_time_optimization_effort", -1.0)  # whether it compiles is asked, not how well
    try:
        found = plan_job("train", settings, model_config(settings), target("v5e:2x2"), tell=lambda line: None)
    finally:
        jax.config.update("jax_exec_time_optimization_effort", 0.0)
    assert found["fits"] and found["roofline_seconds"] > 0


COMMANDS = {
    "convert": convert,
    "generate": generate,
    "eval": evaluate,
    "audit": audit,
    "attack word": word_search,
    "attack gcg": gcg,
    "attack pgd": pgd,
    "guard extract": guard_extract,
    "guard select": guard_select,
    "guard apply": guard_apply,
    "guard bake": guard_bake,
    "train NPO LoRA": train_npo_lora,
    "train RMU": train_rmu,
    "export": export,
    "relearn": relearn,
    "plan": plan,
}


@pytest.fixture(scope="module", params=FAMILIES)
def home(request, tmp_path_factory):
    yield Home(request.param, tmp_path_factory.mktemp(request.param))
    jax.clear_caches()  # the next family shares no program


@pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache")  # of bin/plan, for absent chips
@pytest.mark.parametrize("command", COMMANDS)
def test_command(home, command):
    limit = home.family.limits.get(command)
    if limit is None:
        COMMANDS[command](home)
    else:
        with pytest.raises(InputError, match=re.escape(limit)):
            COMMANDS[command](home)


def test_the_page_shows_this_table():
    """Whoever adds a family pastes what this test prints."""
    rows = [["family", *COMMANDS], ["---"] * (len(COMMANDS) + 1)]
    for name, family in FAMILIES.items():
        rows.append([f"`{name}`", *("no" if command in family.limits else "yes" for command in COMMANDS)])
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8").splitlines()
    missing = [line for line in (f"| {' | '.join(row)} |" for row in rows) if line not in page]
    assert not missing, "docs/models.md should hold these lines\n\n" + "\n".join(missing)
    described = [line for name in FAMILIES for line in page if line.startswith(f"| `{name}` |")]
    assert len(described) == 2 * len(FAMILIES), "docs/models.md: each family has a line that says its checkpoints"
