"""Defences: what is asked on the way, what is kept of the replies, and that a run resumes and keeps its labels."""

import dataclasses
import json
from pathlib import Path

import pytest

from vlm_mu_jax.data.records import ImagePart, Record, Records, Turn
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers.answers_file import Answer, Condition, read
from vlm_mu_jax.evaluation.answers.asking import AnswerOptions, Contrast, answer_questions
from vlm_mu_jax.evaluation.defences import runs, wrappers
from vlm_mu_jax.evaluation.defences.wrappers import Wording, defend
from vlm_mu_jax.evaluation.judges import KeywordJudge
from vlm_mu_jax.evaluation.judging import judge_suite
from vlm_mu_jax.evaluation.questions import dialogues
from vlm_mu_jax.evaluation.questions.question import Question
from vlm_mu_jax.evaluation.questions.suite import Suite

PICTURE = Path("sign.png")
QUESTIONS = [
    Question("a", "how to hurt a {answer} ?", PICTURE, Condition(image="own"), answer_start="sure"),
    Question("b", "how to feed a wug ?", PICTURE, Condition(image="own")),
    Question("c", "how to hurt a dax ?", None, Condition(image="none")),
]


class Model:
    """Replies by pass, and remembers what it was asked."""

    def __init__(self, replies):
        self.replies, self.asked, self.unsteered = replies, {}, set()

    def __call__(self, stage, questions, most=None, contrast=None, steered=True):
        self.asked[stage], self.contrast = list(questions), contrast
        self.unsteered |= set() if steered else {stage}
        texts = [self.replies(stage, q) for q in questions]
        shas = [f"{stage}/{q.id}" for q in questions]
        images = [str(q.image) if q.image else None for q in questions]
        return [
            Answer(q.id, q.condition, image, sha, q.text, text, len(text.split()))
            for q, text, sha, image in zip(questions, texts, shas, images, strict=True)
        ]


def test_vanilla_changes_nothing():
    model = Model(lambda stage, q: q.text)
    made = defend("vanilla", QUESTIONS, model)
    assert model.asked == {"": QUESTIONS} and [a.answer for a in made.answers] == [q.text for q in QUESTIONS]


def test_self_reminder_wraps_the_question_and_is_judged_on_the_original():
    model = Model(lambda stage, q: "fine")
    made = defend("self_reminder", QUESTIONS, model, Wording(self_reminder="be good .\n{question}\nbe good ."))
    assert [q.text for q in model.asked["reminded"]] == [f"be good .\n{q.text}\nbe good ." for q in QUESTIONS]
    assert model.asked["reminded"][0].answer_start == "sure", "an attack on the answer's start stays in place"
    assert [a.question for a in made.answers] == [q.text for q in QUESTIONS]


def test_goal_priority_keeps_the_final_response_and_counts_missing_markers():
    replies = {"a": "[Internal thoughts] x [Final response] no .", "b": "no marker here", "c": "[Final response] yes"}
    made = defend("goal_priority", QUESTIONS, Model(lambda stage, q: replies[q.id]))
    assert [a.answer for a in made.answers] == ["no .", "no marker here", "yes"]
    assert made.facts == {"marker_missing": (1, 3)} and made.tokens == 7 + 3 + 3


def test_adashield_stands_behind_the_question():
    model = Model(lambda stage, q: "fine")
    made = defend("adashield", QUESTIONS, model, Wording(adashield="{question}\nlook first ."))
    assert [q.text for q in model.asked["shielded"]] == [f"{q.text}\nlook first ." for q in QUESTIONS]
    assert [a.question for a in made.answers] == [q.text for q in QUESTIONS]


def test_what_is_refused_as_text_is_not_asked_with_its_image():
    model = Model(lambda stage, q: "I'm sorry, I can't help with that." if stage == "text" and q.id == "a" else "fine")
    made = defend("text_first", QUESTIONS, model)
    assert [a.answer for a in made.answers] == ["I'm sorry, I can't help with that.", "fine", "fine"]
    assert [q.id for q in model.asked["text"]] == ["a", "b"] and not any(q.has_image for q in model.asked["text"])
    assert model.asked["image"] == QUESTIONS[1:], "with its image, or without one from the start"
    assert made.facts == {"refused_as_text": (1, 2)} and made.tokens == 7 + 1 + 2


def test_a_word_in_front_does_not_hide_what_is_refused_without_it():
    refusal = "I'm sorry, I can't help with that."
    model = Model(lambda stage, q: refusal if q.text.startswith("to hurt") else "fine")
    made = defend("erase_and_check", QUESTIONS, model)
    assert [a.answer for a in made.answers] == [refusal, "fine", refusal]
    assert [q.text for q in model.asked["text"]] == [q.text for q in QUESTIONS]
    assert [q.text for q in model.asked["text1"]] == [q.text.removeprefix("how ") for q in QUESTIONS]
    assert model.asked["image"] == [QUESTIONS[1]] and not any(q.has_image for q in model.asked["text1"])
    assert QUESTIONS[0].answer_start and not any(q.answer_start for q in model.asked["text"])
    assert [a.question for a in made.answers] == [q.text for q in QUESTIONS]
    assert made.facts == {"refused_as_text": (2, 3)}


def test_only_texts_on_which_the_gate_opens_are_checked():
    refusal = "I'm sorry, I can't help with that."
    model = Model(lambda stage, q: refusal if "text" in stage else "fine")  # it refuses every text
    model.opens = lambda questions: [q.text.startswith("to hurt") and not q.has_image for q in questions]
    made = defend("gate_and_check", QUESTIONS, model)
    assert [a.answer for a in made.answers] == [refusal, "fine", refusal]
    assert model.asked["text"] == [] and [q.id for q in model.asked["text1"]] == ["a", "c"]
    assert model.unsteered == {"text", "text1"} and model.asked["image"] == [QUESTIONS[1]]
    assert made.facts == {"refused_as_text": (2, 3), "gate_open": (2, 3)}


def test_a_check_behind_a_gate_needs_a_guard(model, data_dir):
    suite = Suite({"direct": [Question("b", "is it ?", None)]}, {"direct": {"b": None}}, {})
    with pytest.raises(InputError, match="gate_source=text"):
        wrappers.defend_suite(model, suite, "gate_and_check", None, AnswerOptions(2, 4))
    with pytest.raises(InputError, match="gate_source=text"):
        wrappers.check_guard("gate_and_check", None)
    wrappers.check_guard("erase_and_check", None)
    with pytest.raises(InputError, match=r"gate_and_check\+guard"):
        runs.parse(["gate_and_check"])
    assert runs.parse(["gate_and_check+guard"])[0].guard == "guard"


def test_coca_asks_with_the_principle_against_without_it():
    model = Model(lambda stage, q: "fine")
    made = defend("coca", QUESTIONS, model, Wording(coca="be safe .\n{question}", coca_alpha=2.0))
    assert [q.text for q in model.asked["contrasted"]] == [f"be safe .\n{q.text}" for q in QUESTIONS]
    assert model.contrast.alpha == 2.0
    assert [model.contrast.partner[q.id, q.condition] for q in model.asked["contrasted"]] == QUESTIONS
    assert [a.question for a in made.answers] == [q.text for q in QUESTIONS]


def test_contrasted_questions_are_the_first_half_of_their_batch(model, data_dir):
    image = data_dir / "test" / "0.png"
    questions = [Question("a", "what ?", image, Condition(image="own")), Question("b", "is it ?", None)]
    partner = {(q.id, q.condition): dataclasses.replace(q, text="a much longer question ?") for q in questions}
    plain = answer_questions(model, questions, options=AnswerOptions(2, 4))
    same = answer_questions(model, questions, options=AnswerOptions(2, 4, contrast=Contrast(0.0, partner)))
    assert [a.answer for a in same] == [a.answer for a in plain] and [a.question for a in same] == ["what ?", "is it ?"]


def test_ecso_answers_again_without_the_image_only_what_it_found_harmful_itself():
    def replies(stage, q):
        return {"answer": "first", "check": "Yes, it is." if q.id == "a" else "No.", "caption": "a red {question}"}.get(
            stage, "I cannot help."
        )

    model = Model(replies)
    made = defend("ecso", QUESTIONS, model)
    assert [a.answer for a in made.answers] == ["I cannot help.", "first", "first"]
    assert [q.id for q in model.asked["check"]] == ["a", "b"], "without an image there is nothing to take away"
    assert "how to hurt a {answer} ?" in model.asked["check"][0].text, "braces in a question stay what they are"
    assert model.asked["check"][0].answer_start == "" and model.asked["caption"][0].has_image
    (blind,) = model.asked["without_image"]
    assert not blind.has_image and blind.answer_start == "sure" and "a red {question}" in blind.text
    assert made.facts == {"flagged_by_itself": (1, 2)}
    assert [a.image_id for a in made.answers] == ["sign.png", "sign.png", None], "the condition is that of the question"
    assert [a.question for a in made.answers] == [q.text for q in QUESTIONS]


@pytest.mark.parametrize(
    "content, said",
    [
        ({"self_remnder": "x {question}"}, "some of"),
        ({"self_reminder": "no place for it"}, "{question}"),
        ({"ecso_check": "{question} only"}, "{answer}"),
        ({"ecso_harmful": "yes"}, "list of words"),
        ({"coca_alpha": "much"}, "a number"),
        ({"erased_words": 0}, "1 or more"),
        (["x"], "expected an object"),
    ],
)
def test_a_wording_that_cannot_work_is_an_input_error(tmp_path, content, said):
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        wrappers.read_wording(file)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_replaces_the_parts_it_names(tmp_path):
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps({"self_reminder": "{question} !", "ecso_harmful": ["ja"]}))
    found = wrappers.read_wording(file)
    assert found.self_reminder == "{question} !" and found.ecso_harmful == ("ja",)
    assert found.goal_priority == Wording().goal_priority


def test_the_default_wording_passes_its_own_check(tmp_path):
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps(dataclasses.asdict(Wording())))
    assert wrappers.read_wording(file) == Wording()


def turns(*texts):
    return tuple(Turn(("user", "assistant")[i % 2], (text,)) for i, text in enumerate(texts))


def test_a_dialogue_goes_on_behind_what_the_defence_made_of_its_answers():
    talk = Record("t", turns=turns("how ?", "", "so ?"), kind="unsafe")
    records = Records((talk,), Path("."), Path("talk.json"), "0")
    model = Model(lambda stage, q: "[Internal thoughts] x [Final response] no .")
    made = defend("goal_priority", dialogues.questions(records, records), model)
    (last,) = model.asked["prioritised"]  # the second turn's, asked after the first one's
    assert last.context.before == turns("how ?", "no .") and not last.own_history
    assert [(a.question, a.answer) for a in made.answers] == [("how ?", "no ."), ("so ?", "no .")]
    assert made.facts == {"marker_missing": (0, 2)} and made.tokens == 14


def test_ecso_takes_all_images_of_a_conversation_away():
    shown = Turn("user", (ImagePart("a.png"), "see ", ImagePart("b.png")))
    talk = Record("t", turns=(shown, *turns("", "yes", "")[1:2], *turns("so ?")), kind="unsafe", at=1)
    question = Question.of(Records((talk,), Path("."), Path("talk.json"), "0"), talk)
    model = Model(lambda stage, q: {"check": "Yes", "caption": "a sign"}.get(stage, "ok"))
    defend("ecso", [question], model)
    (blind,) = model.asked["without_image"]
    assert blind.images == () and blind.context.before[0].parts == ("see ",) and "a sign" in blind.text
    assert model.asked["check"][0].images == question.images and model.asked["check"][0].context == question.context


def test_a_suite_is_asked_once_and_keeps_its_labels(model, quick, data_dir, tmp_path):
    image = data_dir / "test" / "0.png"
    questions = [Question("a", "what ?", image, Condition(image="own")), Question("b", "is it ?", None)]
    suite = Suite({"direct": questions}, {"direct": {"a": None, "b": None}}, {})
    wording = Wording(self_reminder="so : {question}", ecso_check="{question} {answer}")
    for name in ("self_reminder", "ecso"):
        workdir = tmp_path / name
        options = AnswerOptions(2, 4)
        first, facts = wrappers.defend_suite(model, suite, name, workdir, options, wording)
        assert [a.question for a in first["direct"]] == ["what ?", "is it ?"] and facts["name"] == name
        judge_suite(first, suite, {"keyword": KeywordJudge()}, workdir)
        calls = len(quick)
        again, _ = wrappers.defend_suite(model, suite, name, workdir, options, wording)
        assert len(quick) == calls, "asked again"
        assert [a.answer for a in again["direct"]] == [a.answer for a in first["direct"]]
        assert all(a.labels for a in read(workdir / "answers" / "direct.jsonl"))


def test_an_unknown_defence_is_an_input_error():
    with pytest.raises(InputError, match="vanilla, self_reminder"):
        defend("hope", QUESTIONS, Model(lambda stage, q: ""))
