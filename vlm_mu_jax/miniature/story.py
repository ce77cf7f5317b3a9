"""The story that bin/quickstart runs, as a plan: every step is a command line that also works by itself.

Both worlds have the same story. What differs is the world's `Settings`: how it is built, how long its training is, how
much is asked.
"""

import dataclasses
from pathlib import Path

SAFETY, HELD_OUT, REBALANCED = "mini/data/train.json", "mini/data/test.json", "train_rebalanced.json"
GAP, GAP_VALIDATION = "mini/data/text_harm.json", "mini/data/text_harm_validation.json"
MARK = "seed.txt"  # what a folder of the quickstart holds, and no other
HELD = ("sft", "npo", "rmu")
EVALUATED = ("base", "sft", "sft_diverse", "npo", "rmu")  # then the balanced RMU and the guard
REPORT = (
    "--audit=attribution.json --saliency=saliency.json --guard_diagnostics=diagnostics.json"
    " --training=sft --training=npo --training=rmu --export=npo_hf --images=mini/data"
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a world's story has of its own.

    Attributes:
      world: its name, as --world takes it.
      title: of the step that builds it.
      configs: what the names of its training configs begin with.
      answers: flags of commands that generate.
      asked: flags of every evaluation.
      forgotten: flags of the evaluation that collects what is forgotten.
      words: flags that choose candidate words and questions of a search.
      shortlist: words that are tried with real answers.
      strengths: of the guard that are tried.
      saliency: questions whose words are weighed.
      balanced: RMU also forgets answers to the rebalanced requests, as a model of its own.
    """

    world: str
    title: str
    configs: str
    answers: str = "--max_new_tokens=32 --batch_size=64"
    asked: str = ""
    forgotten: str = ""
    words: str = ""
    shortlist: int = 64
    strengths: str = "0.5,1,2"
    saliency: int = 24
    balanced: bool = False


WORLDS = {
    "nonsense": Settings("nonsense", "Build the miniature: a tiny LLaVA and its world", "miniature"),
    "english": Settings(
        "english",
        "Build the English world: SmolLM2 with a small tower, and a company's archive",
        "english",
        answers="--max_new_tokens=24 --batch_size=48 --shots=2",
        asked=" --sets=unsafe_before,harmless_before,unsafe_after,unsafe_null,harmless_after,harmless_openings,utility,"
        "gap_text_only,gap_blank_image,gap_own_image",
        forgotten=" --max_questions=96",
        words=" --words=english:120 --search_questions=4 --verify_questions=24",
        shortlist=8,
        saliency=8,
        balanced=True,
    ),
}


@dataclasses.dataclass(frozen=True)
class Step:
    """title: what the reader is told. command: the command line after bin/. made: what it leaves, relative to --out."""

    title: str
    command: str
    made: str


def steps(seed: int, world: str = "nonsense", build: str = "", holds: bool = False) -> list[Step]:
    """The story; paths are relative to --out.

    Args:
      world: a name of `WORLDS`.
      build: further flags of the command that builds the world.
      holds: also measure what the models of `HELD` survive.
    """
    return _Story(seed, WORLDS[world]).steps(build, holds)


def mark(seed: int, world: str) -> str:
    """What a folder of the quickstart says of itself: its seed, and behind it the world unless it is the nonsense."""
    return f"{seed}" if world == "nonsense" else f"{seed} {world}"


@dataclasses.dataclass(frozen=True)
class _Story:
    """The steps of one seed in one world."""

    seed: int
    of: Settings

    def steps(self, build: str, holds: bool) -> list[Step]:
        shown = "".join(f" --holds=holds_{name}/holds.json" for name in HELD) if holds else ""
        return [
            *self._model_and_data(build),
            self._train("Safety fine-tuning (SFT)", "sft", "sft"),
            self._attack("Search for words that break the SFT model", "sft"),
            self._eval("base", "base", "--checkpoint=base"),
            self._eval("sft", "sft", "--checkpoint=sft --baseline=eval_base"),
            self._train("SFT with diversified general data: does that fix it?", "sft:diverse", "sft_diverse"),
            self._eval("sft_diverse", "sft", "--checkpoint=sft_diverse --baseline=eval_base"),
            *self._from_data_to_model(),
            *self._unlearning(),
            *self._guard(),
            Step(
                "Export the unlearned model to Hugging Face", "convert_hf --export --source=npo --out=npo_hf", "npo_hf"
            ),
            *([self._holds(name) for name in HELD] if holds else []),
            Step("Write the report", f"report {self._shown()}{shown} --out=report.html", "report.html"),
        ]

    def _model_and_data(self, build: str) -> list[Step]:
        seed = f"--seed={self.seed}"
        world = "" if self.of.world == "nonsense" else f" --world={self.of.world}{build}"
        return [
            Step(self.of.title, f"miniature --out=mini {seed}{world}", "mini/hf"),
            Step("Convert it from Hugging Face to Orbax", "convert_hf --source=mini/hf --out=base", "base"),
            Step(
                "Audit the safety data for telling words, and rebalance them",
                f"audit --data={SAFETY} --out=audit.json {seed} --rebalance=mini/data/{REBALANCED}",
                f"mini/data/{REBALANCED}",  # is written last
            ),
        ]

    def _from_data_to_model(self) -> list[Step]:
        """Is the audit's shortcut in the model, does it go with the data's, and which words of a question decide?"""
        seed = f"--seed={self.seed}"
        few_answers = f"{self.of.answers}{self.of.words} --shortlist=0 --rescored=0 --verify_questions=16"
        search = f"attack --checkpoint=sft_rebalanced --data=mini/data {seed} {few_answers}"
        follow = f"audit --data={SAFETY} {seed} --attack=attack_sft.json"
        weigh = f"audit --data={HELD_OUT} {seed} --checkpoint=sft --saliency={self.of.saliency}"
        attack, joined, weighed = "attack_sft_rebalanced.json", "attribution.json", "saliency.json"
        title = "SFT on safety data whose openings were rebalanced"
        return [
            self._train(title, "sft", "sft_rebalanced", REBALANCED),
            Step("Score every word on that model too", f"{search} --out={attack}", attack),
            Step(
                "Follow the telling words from the data into both models",
                f"{follow} --attack_rebalanced={attack} --out={joined}",
                joined,
            ),
            Step("Ask the SFT model which words of a question decide", f"{weigh} --out={weighed}", weighed),
        ]

    def _unlearning(self) -> list[Step]:
        return [
            self._forget_set("Harmful answers of the base model: what NPO and RMU will forget", "train", "forget"),
            self._train("Unlearn with NPO", "unlearn:npo", "npo"),
            self._eval("npo", "npo", "--checkpoint=npo --baseline=eval_sft"),
            self._train("Unlearn with RMU", "unlearn:rmu", "rmu"),
            self._eval("rmu", "rmu", "--checkpoint=rmu --baseline=eval_sft"),
            self._attack("Attack the NPO model again, with words searched for it", "npo"),
            self._attack("Attack the RMU model again, with words searched for it", "rmu"),
            *(self._balanced() if self.of.balanced else []),
        ]

    def _balanced(self) -> list[Step]:
        """Is RMU's mirage that of its forget set? The same requests, their openings balanced by the audit."""
        name, forget = "rmu_balanced", "forget_balanced"
        answers = f" --config.data.forget_answers=../../{forget}/answers/unsafe_before.jsonl"
        return [
            self._forget_set("Harmful answers to the rebalanced requests", Path(REBALANCED).stem, forget),
            self._train("Unlearn with RMU, balanced forget set", "unlearn:rmu", name, REBALANCED, answers),
            self._eval(name, "rmu", f"--checkpoint={name} --baseline=eval_rmu"),
            self._attack("Attack that model again, with words searched for it", name),
        ]

    def _forget_set(self, title: str, subset: str, out: str) -> Step:
        asked = f"--subset={subset} --sets=unsafe_before {self.of.answers}{self.of.forgotten}"
        return Step(title, f"eval --checkpoint=base --data=mini/data --workdir={out} {asked}", f"{out}/results.json")

    def _guard(self) -> list[Step]:
        select = (
            f"select --checkpoint=base --guard=guard_raw --data={GAP_VALIDATION} --validation_share=1 --operators=add"
            f" --strengths={self.of.strengths} --out=guard --max_new_tokens=32 --batch_size=48"
        )
        return [
            Step(
                "Extract the safety direction from the language model, text only",
                "guard extract --checkpoint=base --anchors=mini/data/anchors.json --out=guard_raw"
                " --benign=mini/data/llava_mix.json --decide=example --gate_source=text --gate_layers=last"
                " --scope=last",
                "guard_raw",
            ),
            Step("Choose the guard on validation requests", f"guard {select}", "guard"),
            self._eval("guard", "guard", "--checkpoint=base --guard=guard --baseline=eval_base"),
            Step(
                "Look inside: hidden states with and without an image",
                f"guard diagnose --checkpoint=base --guard=guard --data={GAP} --out=diagnostics.json",
                "diagnostics.json",
            ),
        ]

    def _train(self, title: str, config: str, name: str, safety: str = "", more: str = "") -> Step:
        """config: of configs/WORLD_*.py, its variant after a colon. safety: other safety data than its own.

        more: further flags, each behind a space.
        """
        paths = "--config.model.init=base --config.data.root=mini/data"
        paths += f" --config.data.safety={safety}" if safety else ""
        config = f"{self.of.configs}_{config}"
        return Step(
            title, f"train --config={config} {paths}{more} --config.seed={self.seed} --workdir={name}", f"{name}/model"
        )

    def _attack(self, title: str, name: str) -> Step:
        found = f"attack_{name}.json"
        return Step(
            title,
            f"attack --checkpoint={name} --reference=base --data=mini/data --out={found} --seed={self.seed}"
            f" --shortlist={self.of.shortlist} {self.of.answers}{self.of.words}",
            found,
        )

    def _shown(self) -> str:
        """What the report shows: its arguments and flags."""
        further = ("rmu_balanced",) if self.of.balanced else ()
        evaluated = " ".join(f"eval_{name}" for name in (*EVALUATED, *further, "guard"))
        again = "".join(f" --attack_again={name}=attack_{name}.json" for name in ("npo", "rmu", *further))
        return f"{evaluated} --attack=attack_sft.json{again} {REPORT}"

    def _holds(self, name: str) -> Step:
        baseline = "" if name == HELD[0] else f" --baseline=holds_{HELD[0]}"
        return Step(
            f"What {name} survives: attacks, fewer bits, pruning, relearning",
            f"holds --checkpoint={name} --name={name} --data=mini/data --workdir=holds_{name} --reference=base"
            f" --seed={self.seed}{baseline} --forget_answers=forget/answers/unsafe_before.jsonl --questions=32"
            " --search_questions=12 --suffix_steps=8 --pixel_steps=5 --max_new_tokens=24 --batch_size=32 --depth=32",
            f"holds_{name}/holds.json",
        )

    def _eval(self, name: str, kind: str, options: str) -> Step:
        return Step(
            f"Evaluate: {name}",
            f"eval {options} --data=mini/data --workdir=eval_{name} --name={name} --kind={kind} --seed={self.seed}"
            f" --attack_words=attack_sft.json {self.of.answers}{self.of.asked}",
            f"eval_{name}/results.json",
        )
