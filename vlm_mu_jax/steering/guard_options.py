"""How a guard uses its directions: the operator along them, the gate that decides when, and the positions written."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.steer import SCOPES
from vlm_mu_jax.steering import guard_folder
from vlm_mu_jax.steering.gates import GATES
from vlm_mu_jax.steering.operators import OPERATORS

DECIDERS = ("layer", "example")
SOURCES = ("self", "text")
COMPONENTS = ("token", *SOURCES, "adaptive")
UNITS = ("gap", "norm")


@dataclasses.dataclass(frozen=True)
class GuardOptions:
    """What a guard does, where, and when.

        GuardOptions(operator="add", strength=1.0, layers=(1, 2), scope="last", decide="example", gate_source="text")

    A *first pass* is a run of the prompt without steering, before the steered one. Options that need one cost a second
    prefill.

    Attributes:
      operator: what is done along the directions, one of `operators.OPERATORS`.
      strength: alpha of `amplify`, `add` and `transplant`. The other operators have a fixed strength.
      layers: 0-based numbers of the blocks whose output is steered.
      gate: the threshold that decides when the guard acts, one of `gates.GATES`.
      decide: who decides. "layer" (the paper): every layer for itself. "example": one vote of the gate layers on a
        first pass; the guard then acts at all its layers or at none.
      quorum: with "example", the share of the gate layers that must agree.
      fpr: false-positive rate of the gate `calibrated`.
      norm_preserving: rescales a steered state to the norm that it had before.
      gate_source: with "example", the prompt of the first pass. "self": as asked, with its image. "text": the question
        alone, so that the language model supervises the multimodal run. The second is a reading of VLM-Guard, whose
        directions are those of a text-only model: an image moves every state, and a threshold from text no longer fits.
      erased_words: with `gate_source` "text": the gate also reads the text without its first word, without its first
        two, and so on up to so many, and is open where it opens on one of them. A word in front of a request cannot
        close it then (the filter of erase-and-check, arXiv 2309.02705, on a gate). Each costs a first pass of its own.
      scope: the positions written, one of `model.steer.SCOPES`. The default is the prompt, where the model decides
        whether to refuse. On the miniature, steering the answer as well adds no refusals and turns its wording into
        nonsense.
      component: whose component `amplify` and `transplant` add. "token": each token's own. "self": that of the prompt's
        last token in a first pass. "text": that of the last token of the text-only prompt. These are readings iii, i
        and ii of step 3 of the paper. "adaptive": AdaSteer's coefficient, from a first pass as asked (`ada_steer`).
      unit: what strength 1 of `add` is. "gap": the distance of the class means along the direction. "norm": the mean
        norm of the residual stream at that layer.
      gate_layers: with "example", the layers that vote; with component "adaptive", those that are read. Empty: the
        steered layers.
      hide_image: where the guard acts, the answer's tokens do not read the prompt's images. What the prompt's own
        tokens read off them stays. Which is better depends on the model; `select_guard` tries both.

    Raises InputError for an unknown name and for options that exclude each other.
    """

    operator: str = "amplify"
    strength: float = 2.0
    layers: tuple[int, ...] = ()
    gate: str = "midpoint"
    decide: str = "layer"
    quorum: float = 0.5
    fpr: float = 0.05
    norm_preserving: bool = False
    gate_source: str = "self"
    scope: str = "prompt"
    component: str = "token"
    unit: str = "gap"
    gate_layers: tuple[int, ...] = ()
    hide_image: bool = False
    erased_words: int = 0

    def __post_init__(self):
        checks = (
            ("operator", self.operator, OPERATORS),
            ("gate", self.gate, GATES),
            ("decide", self.decide, DECIDERS),
            ("gate_source", self.gate_source, SOURCES),
            ("scope", self.scope, SCOPES),
            ("component", self.component, COMPONENTS),
            ("unit", self.unit, UNITS),
        )
        for name, value, known in checks:
            if value not in known:
                raise InputError(f"{name} {value!r} is unknown; use one of {', '.join(known)}")
        if self.decide == "layer" and (self.gate_source == "text" or self.gate_layers) and self.gate != "none":
            raise InputError(
                "a gate that reads the text alone or layers of its own needs a pass of its own; add --decide=example"
            )
        if self.erased_words < 0 or self.erased_words and not self.votes_on_text:
            raise InputError(
                f"erased_words {self.erased_words} is negative, or no gate decides per example from the text;"
                " add --decide=example --gate_source=text"
            )
        if self.gate == "linear" and (self.decide == "example" or self.hide_image):
            raise InputError("gate linear is a number per layer, not a decision; use --decide=layer and --nohide_image")
        if self.component == "adaptive" and (self.operator != "amplify" or self.gate != "none"):
            raise InputError("component adaptive decides by itself; use --operator=amplify and --gate=none")
        if self.operator == "transplant" and self.component == "token":
            raise InputError("transplant needs the component of another run; add --component=text (or self)")
        if self.operator == "ablate" and (self.gate != "none" and self.decide == "layer"):
            raise InputError("ablate writes before a layer could decide; use --gate=none or --decide=example")
        reading = {self.gate_source} if self.votes else set()
        if len(reading | ({self.component} - {"token"})) > 1:
            raise InputError("gate and component read different prompts; one first pass serves both, make them equal")

    @property
    def votes(self) -> bool:
        """Whether a gate decides once per example, from a first pass."""
        return self.decide == "example" and self.gate != "none"

    @property
    def votes_on_text(self) -> bool:
        """Whether that gate reads the text alone."""
        return self.votes and self.first_pass_reads_text

    @property
    def needs_first_pass(self) -> bool:
        """Whether a first pass runs before the model: for the gate, for the component, or for both."""
        return self.votes or self.component != "token"

    @property
    def first_pass_reads_text(self) -> bool:
        """Whether that first pass runs the question without its image."""
        return "text" in (self.gate_source if self.votes else None, self.component)


def options_of(folder: str | Path) -> GuardOptions:
    """The options of a guard folder. Raises InputError, which names the folder, when it holds no guard."""
    return stored_options(folder, guard_folder.read(folder)[1])


def stored_options(folder: str | Path, meta: Mapping[str, Any]) -> GuardOptions:
    """The options in the JSON of a guard folder. Raises InputError, which names the folder, when they are not such."""
    try:
        known = {"scope": "all", **meta["settings"]}  # guards written before there was a scope steered every position
        lists = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
        return GuardOptions(**lists)
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{folder} lacks or misspells a part ({error}); make it again with bin/guard extract"
        ) from None
