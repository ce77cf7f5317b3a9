"""Scores of a guard setting: the worse condition counts, and nonsense is told from refusal."""

from dataclasses import asdict

import pytest
from PIL import Image

from vlm_mu_jax.data.records import Record, Records
from vlm_mu_jax.evaluation.guards.asking import labels_of, shown
from vlm_mu_jax.evaluation.guards.trials import Trials, scores_of
from vlm_mu_jax.evaluation.judges import Label
from vlm_mu_jax.steering.guarded_answers import GuardedAnswer
from vlm_mu_jax.steering.selection import OFF, Bounds, GuardChoice, GuardScores


def shares(refused: float, irrelevant: float = 0.0) -> dict[str, float]:
    return {"refused": refused, "irrelevant": irrelevant, "answered": 1 - refused - irrelevant}


@pytest.mark.parametrize("worse, better", [("blank", "own"), ("own", "blank")])
def test_every_score_is_that_of_the_worse_condition(worse, better):
    share = {
        ("unsafe", worse): shares(0.5, 0.25),
        ("unsafe", better): shares(1.0),
        ("unsafe", "other"): shares(0.75),
        ("safe", worse): shares(0.25, 0.25),
        ("safe", better): shares(0.0),
    }
    refusals = {f"refusal_{worse}": 0.5, f"refusal_{better}": 1.0, "refusal_other": 0.75}
    assert scores_of(share, exact=True) == GuardScores(0.5, 0.25, 0.5, 0.25, **refusals, answered_harmful=0.25)
    assert scores_of(share, exact=False).right_harmless is None


def test_a_text_only_model_has_no_scores_by_image():
    found = scores_of({("unsafe", "none"): shares(0.75), ("safe", "none"): shares(0.0)}, exact=True)
    assert (
        found == GuardScores(0.75, 0.0, 1.0, answered_harmful=0.25) and found.refusal_blank is found.refusal_own is None
    )


class ModelJudge:
    """One that asks a model: about many answers at once, and not always with a verdict."""

    name, exact = "harm:model", False

    def __init__(self):
        self.shown = []

    def many(self, cases, progress=None):
        self.shown.append([(case.question, case.answer, case.image and case.image.name) for case in cases])
        return [Label("refused") if case.answer == "no ." else Label(None, abstain=True) for case in cases]

    def cost(self):
        return {}


def test_a_judge_that_asks_a_model_is_asked_once_and_shown_their_own_images(tmp_path):
    (tmp_path / "sign.png").write_bytes(b"any")
    items = tuple(Record(f"q{k}", "sign.png", f"how {k} ?", "", "unsafe", "none", "test") for k in range(2))
    records, judge = Records(items, tmp_path, tmp_path / "data.json", "0"), ModelJudge()
    made = [GuardedAnswer("no .", 2, None), GuardedAnswer("ok", 1, None)]
    labels = labels_of(judge, records, made, own_image=True)
    assert [label.label for label in labels] == ["refused", None]
    labels_of(judge, records, made)
    assert judge.shown == [[("how 0 ?", "no .", name), ("how 1 ?", "ok", name)] for name in ("sign.png", None)]


class HalfJudge(ModelJudge):
    """No verdict on every second answer, a refusal for the others."""

    def many(self, cases, progress=None):
        return [Label("refused") if k % 2 else Label(None, abstain=True) for k in range(len(cases))]


def test_answers_without_verdict_are_in_no_share_and_counted(model, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    kinds = ("unsafe", "unsafe", "safe", "safe")
    items = tuple(Record(f"q{k}", "x.png", "how ?", "", kind, "none", "test") for k, kind in enumerate(kinds))
    records, blank = Records(items, tmp_path, tmp_path / "data.json", "0"), model.processor.pixels(tmp_path / "x.png")
    scores = Trials(model, None, records, HalfJudge(), blank_HWC=blank, max_new_tokens=2, batch_size=4)(OFF)
    assert scores.refusal_harmful == scores.over_refusal == 1.0
    assert scores.unjudged == 5  # one of two, unsafe with a blank, its own and another's image, safe with two of them
    rows = [{**asdict(OFF), **asdict(scores), "feasible": True}]
    assert GuardChoice(OFF, rows, Bounds()).table().splitlines()[1].endswith("5 answers without verdict")


def test_another_requests_image_is_never_ones_own(model, tmp_path):
    for k in range(4):
        Image.new("RGB", (8, 8), (60 * k, 0, 0)).save(tmp_path / f"{k}.png")
    items = tuple(Record(f"q{k}", f"{k}.png", "how ?", "", "unsafe", "none", "test") for k in range(4))
    records = Records(items, tmp_path, tmp_path / "data.json", "0")
    own, other = (sum(shown(model, records, condition, None).images, []) for condition in ("own", "other"))
    assert all((a != b).any() for a, b in zip(own, other, strict=True))
    assert sorted(x.mean() for x in own) == sorted(x.mean() for x in other)
