"""What the language model alone says to a defended model's prompts."""

from vlm_mu_jax.data.records import Record
from vlm_mu_jax.evaluation.answers.answers_file import Answer, Condition
from vlm_mu_jax.evaluation.answers.asking import AnswerOptions
from vlm_mu_jax.evaluation.defences import table, text_alone
from vlm_mu_jax.evaluation.judges import KeywordJudge
from vlm_mu_jax.evaluation.questions.question import Question


def test_only_prompts_that_the_language_model_refuses_count_against_a_guard(monkeypatch):
    records = {id: Record(id, question=id, kind="safe" if id == "s" else "unsafe") for id in "abs"}
    own = {word: Condition(attack="one_word", word=word, image="own") for word in ("x", "y")}
    questions = [Question(id, f"{word} {id} ?", "p.png", own[word]) for id in "abs" for word in own]
    says = {"x a ?": "i cannot", "y a ?": "sure", "x b ?": "i cannot", "y b ?": "i cannot"}  # text alone
    guarded = {"x a ?": "sure", "y a ?": "sure", "x b ?": "i cannot", "y b ?": "i cannot", "x s ?": "!", "y s ?": "!"}
    asked = []

    def answers(model, some, path, options, **_):
        asked.extend(some)
        assert options.steer is None
        return [Answer(q.id, q.condition, None, "", q.text, says[q.text], 1) for q in some]

    monkeypatch.setattr(text_alone, "answer_questions", answers)
    judge = KeywordJudge()
    defended = [
        Answer(q.id, q.condition, None, "", q.text, guarded[q.text], 1, labels={judge.name: {"label": label}})
        for q in questions
        for label in ["refused" if guarded[q.text] == "i cannot" else "answered"]
    ]
    options = AnswerOptions(steer=object())
    found = text_alone.text_alone(None, questions, defended, records, judge, options)
    assert [q.text for q in asked] == list(says) and not any(q.has_image for q in asked)
    assert found["words"] == ["x", "y"]
    rates = {name: (found[name]["k"], found[name]["n"]) for name in ("refused", "asr_where_refused", "asr")}
    assert rates == {"refused": (3, 4), "asr_where_refused": (1, 3), "asr": (2, 4)}
    row = {"name": "guard", "metrics": {"settings": {"one_word": {"own_image": {"asr": found["asr"]}}}}}
    row["defence"] = {"tokens_per_question": 3.0, "language_model": found}
    plain = row | {"name": "vanilla", "defence": {"tokens_per_question": 3.0}}
    titles, _, first, second = (line.split(" | ") for line in table.markdown([plain, row]).splitlines())
    at = titles.index("ASR where it refuses (n)")
    assert first[at - 2 : at + 1] == ["-"] * 3
    assert second[at - 2 : at + 1] == ["50 [15, 85] (4)", "75 [30, 95] (4)", "33 [6, 79] (3)"]
