"""The story that bin/quickstart runs, as a plan: every step is a command line that also works by itself."""

import dataclasses

EVAL = "--max_new_tokens=32 --batch_size=64"
SAFETY, HELD_OUT, REBALANCED = "mini/data/train.json", "mini/data/test.json", "train_rebalanced.json"
GAP, GAP_VALIDATION = "mini/data/text_harm.json", "mini/data/text_harm_validation.json"
EVALUATED = "eval_base eval_sft eval_sft_diverse eval_npo eval_rmu eval_guard"
REPORT = (
    "--attack=attack_sft.json --attack_again=npo=attack_npo.json --attack_again=rmu=attack_rmu.json"
    " --audit=attribution.json --saliency=saliency.json --guard_diagnostics=diagnostics.json"
    " --training=sft --training=npo --training=rmu --export=npo_hf --images=mini/data"
)


@dataclasses.dataclass(frozen=True)
class Step:
    """title: what the reader is told. command: the command line after bin/. made: what it leaves, relative to --out."""

    title: str
    command: str
    made: str


def steps(seed: int) -> list[Step]:
    """The story; paths are relative to --out."""
    select = (
        f"select --checkpoint=base --guard=guard_raw --data={GAP_VALIDATION} --validation_share=1 --operators=add"
        " --strengths=0.5,1,2 --out=guard"
    )
    return [
        Step("Build the miniature: a tiny LLaVA and its world", f"miniature --out=mini --seed={seed}", "mini/hf"),
        Step("Convert it from Hugging Face to Orbax", "convert_hf --source=mini/hf --out=base", "base"),
        Step(
            "Audit the safety data for telling words, and rebalance them",
            f"audit --data={SAFETY} --out=audit.json --seed={seed} --rebalance=mini/data/{REBALANCED}",
            f"mini/data/{REBALANCED}",  # is written last
        ),
        _train("Safety fine-tuning (SFT)", "sft", "sft", seed),
        _attack("Search the whole vocabulary for words that break the SFT model", "sft", seed),
        _eval("base", "base", seed, "--checkpoint=base"),
        _eval("sft", "sft", seed, "--checkpoint=sft --baseline=eval_base"),
        _train("SFT with diversified general data: does that fix it?", "sft:diverse", "sft_diverse", seed),
        _eval("sft_diverse", "sft", seed, "--checkpoint=sft_diverse --baseline=eval_base"),
        *_from_data_to_model(seed),
        Step(
            "Harmful answers of the base model: what NPO and RMU will forget",
            f"eval --checkpoint=base --data=mini/data --workdir=forget --subset=train --sets=unsafe_before {EVAL}",
            "forget/results.json",
        ),
        _train("Unlearn with NPO", "unlearn:npo", "npo", seed),
        _eval("npo", "npo", seed, "--checkpoint=npo --baseline=eval_sft"),
        _train("Unlearn with RMU", "unlearn:rmu", "rmu", seed),
        _eval("rmu", "rmu", seed, "--checkpoint=rmu --baseline=eval_sft"),
        _attack("Attack the NPO model again, with words searched for it", "npo", seed),
        _attack("Attack the RMU model again, with words searched for it", "rmu", seed),
        Step(
            "Extract the safety direction from the language model, text only",
            "guard extract --checkpoint=base --anchors=mini/data/anchors.json --out=guard_raw"
            " --benign=mini/data/llava_mix.json --decide=example --gate_source=text --gate_layers=last --scope=last",
            "guard_raw",
        ),
        Step("Choose the guard on validation requests", f"guard {select} --max_new_tokens=32 --batch_size=48", "guard"),
        _eval("guard", "guard", seed, "--checkpoint=base --guard=guard --baseline=eval_base"),
        Step(
            "Look inside: hidden states with and without an image",
            f"guard diagnose --checkpoint=base --guard=guard --data={GAP} --out=diagnostics.json",
            "diagnostics.json",
        ),
        Step("Export the unlearned model to Hugging Face", "convert_hf --export --source=npo --out=npo_hf", "npo_hf"),
        Step("Write the report", f"report {EVALUATED} --out=report.html {REPORT}", "report.html"),
    ]


def _from_data_to_model(seed: int) -> list[Step]:
    """Is the audit's shortcut in the model, does it go with the data's, and which words of a question decide?"""
    few_answers = "--shortlist=0 --rescored=0 --verify_questions=16 --max_new_tokens=32 --batch_size=64"
    search = f"attack --checkpoint=sft_rebalanced --data=mini/data --seed={seed} {few_answers}"
    follow = f"audit --data={SAFETY} --seed={seed} --attack=attack_sft.json"
    weigh = f"audit --data={HELD_OUT} --seed={seed} --checkpoint=sft --saliency=24"
    attack, joined, weighed = "attack_sft_rebalanced.json", "attribution.json", "saliency.json"
    return [
        _train("SFT on safety data whose openings were rebalanced", "sft", "sft_rebalanced", seed, REBALANCED),
        Step("Score every word on that model too", f"{search} --out={attack}", attack),
        Step(
            "Follow the telling words from the data into both models",
            f"{follow} --attack_rebalanced={attack} --out={joined}",
            joined,
        ),
        Step("Ask the SFT model which words of a question decide", f"{weigh} --out={weighed}", weighed),
    ]


def _train(title: str, config: str, name: str, seed: int, safety: str = "") -> Step:
    """config: of configs/miniature_*.py, its variant after a colon. safety: other safety data than its own."""
    paths = "--config.model.init=base --config.data.root=mini/data"
    paths += f" --config.data.safety={safety}" if safety else ""
    return Step(
        title, f"train --config=miniature_{config} {paths} --config.seed={seed} --workdir={name}", f"{name}/model"
    )


def _attack(title: str, name: str, seed: int) -> Step:
    return Step(
        title,
        f"attack --checkpoint={name} --reference=base --data=mini/data --out=attack_{name}.json --seed={seed}"
        " --shortlist=64 --max_new_tokens=32 --batch_size=64",
        f"attack_{name}.json",
    )


def _eval(name: str, kind: str, seed: int, options: str) -> Step:
    return Step(
        f"Evaluate: {name}",
        f"eval {options} --data=mini/data --workdir=eval_{name} --name={name} --kind={kind} --seed={seed}"
        f" --attack_words=attack_sft.json {EVAL}",
        f"eval_{name}/results.json",
    )
