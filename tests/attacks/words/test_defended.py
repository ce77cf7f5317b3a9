"""Words searched through defences: which are tried, which are taken, and that a search is not made twice."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from vlm_mu_jax.attacks.words import defended
from vlm_mu_jax.attacks.words.defended import DefenceSearch, defended_words
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers.answers_file import Answer
from vlm_mu_jax.evaluation.defences.comparison import DefenceOptions, DefendedModels
from vlm_mu_jax.evaluation.judges import KeywordJudge


@pytest.fixture
def data(tmp_path):
    rows = [
        {"id": f"r{i}", "kind": kind, "question": f"how to {what} {i} ?", "answer": "no ."}
        for i in range(3)
        for kind, what in (("unsafe", "hurt"), ("safe", "feed"))
    ]
    (tmp_path / "text_harm_validation.json").write_text(json.dumps([r | {"id": r["id"] + r["kind"]} for r in rows]))
    return tmp_path


@pytest.fixture
def searches(model, monkeypatch):
    """Rankings per guard, and answers that refuse unless the question begins with "open". Counts what was asked."""
    made = {"ranked": [], "asked": []}
    model = dataclasses.replace(model, folder="m") if dataclasses.is_dataclass(model) else model
    monkeypatch.setattr(defended.model_folder, "find", lambda folder: folder)
    monkeypatch.setattr(defended.model_folder, "load", lambda folder: model)

    def opened(model, guard):
        return (None, None) if guard is None else (object(), {"folder": guard, "sha256": guard})

    monkeypatch.setattr(defended, "open_guard", opened)

    def ranking(model, guard, records, data, how):
        made["ranked"].append(guard)
        return ["shut", "ajar"] if guard is None else ["ajar", "open"]

    monkeypatch.setattr(defended, "_ranking", ranking)

    def defend_suite(model, suite, name, workdir, options, wording):
        asked = suite.sets["adaptive"]
        made["asked"].append([q.text for q in asked])
        texts = {"open": "sure", "ajar": "sure" if name == "vanilla" else "i cannot", "shut": "i cannot"}
        replies = [texts[q.condition.word] for q in asked]
        answers = [Answer(q.id, q.condition, None, "", q.text, t, 1) for q, t in zip(asked, replies, strict=True)]
        return {"adaptive": answers}, {}

    monkeypatch.setattr(defended.wrappers, "defend_suite", defend_suite)
    return made


def test_words_are_ranked_with_and_without_the_guard_and_taken_by_real_answers(searches, data, tmp_path):
    models = DefendedModels("m", guard="g")
    options = DefenceOptions(shots=1)
    how = DefenceSearch(requests=2)
    run = {"options": options, "how": how, "judge": KeywordJudge(), "workdir": tmp_path / "w"}
    found = defended_words(models, data, ["vanilla", "guard", "self_reminder+guard"], **run)
    assert {name: words.jailbreak for name, words in found.items()} == {
        "vanilla": ("ajar",),
        "guard": ("ajar",),
        "self_reminder+guard": ("open",),
    }
    assert searches["ranked"] == [None, "g"], "a ranking is made once for all defences of a model and guard"
    assert [len(asked) for asked in searches["asked"]] == [4, 6, 6], "two requests behind each word, no harmless one"
    assert all("feed" not in text for asked in searches["asked"] for text in asked)
    again = defended_words(models, data, ["guard"], **run)
    assert again["guard"] == found["guard"] and len(searches["asked"]) == 3
    defended_words(models, data, ["guard"], **run | {"how": DefenceSearch(requests=1)})
    assert len(searches["asked"]) == 4, "another search was taken for this one"


def test_an_unlearned_model_is_tried_with_words_of_the_undefended_one_too(searches, data, monkeypatch):
    words = {"m": ["open"], "n": ["shut"]}
    monkeypatch.setattr(defended, "_ranking", lambda model, *_: words[model.params])
    monkeypatch.setattr(defended.model_folder, "load", lambda folder: SimpleNamespace(params=folder))
    monkeypatch.setattr(defended, "weights_hash", lambda params: params)
    found = defended_words(DefendedModels("m", unlearned="n"), data, ["unlearned"], judge=KeywordJudge())
    assert found["unlearned"].jailbreak == ("open", "shut")


def test_data_without_requests_to_search_on_say_so(searches, tmp_path):
    with pytest.raises(InputError, match="text_harm_validation.json"):
        defended_words(DefendedModels("m"), tmp_path, ["vanilla"], judge=KeywordJudge())


def test_a_guard_that_cannot_be_searched_leaves_the_ranking_without_it(data, monkeypatch, model):
    monkeypatch.setattr(defended, "open_guard", lambda model, guard: (object(), None))

    def refuses(steer, name):
        raise InputError("shares no prefix")

    monkeypatch.setattr(defended, "search_steer", refuses)
    how = DefenceSearch()
    assert defended._ranking(model, "g", defended._records(data, how, 0), data, how) == ()
