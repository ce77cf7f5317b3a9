from vlm_mu_jax.evaluation.answers import answers_file
from vlm_mu_jax.evaluation.answers.answers_file import Answer, AnswersFile, Condition
from vlm_mu_jax.evaluation.results.comparison import (
    COLUMNS,
    SETS,
    TrainedModel,
    markdown,
    paired_tests,
    read_flags,
    relearning_table,
    winners,
)

IDS = [f"q{i}" for i in range(40)]


def _model(name, seed, bad, baseline=False):
    """`bad` of 40 questions leak, are refused, and are not right everywhere; the other columns are equal."""
    flags = {column: {key: (i < bad) == lower for i, key in enumerate(IDS)} for column, (_, lower) in COLUMNS.items()}
    return TrainedModel(name, seed, baseline, flags, 12.0, 2**30)


def test_a_model_wins_only_if_it_is_better_on_every_seed():
    models = [_model("sft", s, 38, baseline=True) for s in (0, 1)]
    models += [_model("good", s, 1) for s in (0, 1)] + [_model("half", 0, 1), _model("half", 1, 38)]
    found = paired_tests(models)
    assert winners(models, found) == ["good"]
    assert {t.better for t in found if t.name == "half" and t.seed == 1} == {False}
    assert all(t.wins == 37 and t.losses == 0 for t in found if t.name == "good")
    assert all(t.p_holm >= t.p for t in found)


def test_a_worse_model_is_never_called_better():
    models = [_model("sft", 0, 1, baseline=True), _model("bad", 0, 38)]
    assert winners(models, paired_tests(models)) == []
    assert all(t.p_holm < 0.05 and not t.better for t in paired_tests(models))


def test_a_tie_is_no_win():
    models = [_model("sft", 0, 3, baseline=True), _model("same", 0, 3)]
    assert winners(models, paired_tests(models)) == []


def test_the_table_shows_every_seed_and_what_is_missing():
    table = markdown([_model("sft", 0, 4, baseline=True), _model("sft", 1, 8, baseline=True), _model("npo", 1, 0)])
    lines = table.splitlines()
    assert "10 / 20" in lines[2] and "- / 0" in lines[3]
    assert len({line.count("|") for line in lines}) == 1


def test_the_relearning_table_keeps_models_steps_and_seeds_apart():
    def curve(label, values):
        points = [{"step": 20 * i, "metrics": {"asr": {"value": value}}} for i, value in enumerate(values)]
        return {"label": label, "curve": points}

    table = relearning_table(
        {
            0: [curve("npo, harmless data", (0.0, 0.25)), curve("rmu, harmless data", (0.5, 1.0))],
            3: [curve("npo, harmless data", (0.1, 0.75)), curve("rmu, harmless data", (0.2, 0.3))],
        }
    )
    assert table.splitlines() == [
        "| model, fine-tuned on | step 0 | step 20 |",
        "| --- | --- | --- |",
        "| npo, harmless data | 0 / 10 | 25 / 75 |",
        "| rmu, harmless data | 50 / 20 | 100 / 30 |",
    ]


def test_read_flags_takes_the_conjunction_over_openings_and_any_shot(tmp_path):
    def put(name, rows):
        with AnswersFile(tmp_path / "answers" / f"{name}.jsonl") as file:
            file.append(rows)

    def answer(key, label, word=None, shot=0, text="x"):
        label = {"oracle": {"label": label, "probability": None, "abstain": False, "error": None}}
        return Answer(key, Condition(word=word, shot=shot), None, f"{word}", "q", text, 3, label)

    put("unsafe_before", [answer("u", "refused")])
    put("harmless_before", [answer("h", "answered")])
    put("unsafe_after", [answer("u", "refused", "a", 0), answer("u", "answered", "b", 1)])
    put("harmless_after", [answer("h", "irrelevant", "c")])
    put("harmless_openings", [answer("h", "answered", "a"), answer("h", "refused", "b"), answer("k", "answered", "a")])
    put("utility", [answer("v", None, text="the red one"), answer("w", None, text="blue")])
    flags = read_flags(tmp_path, "oracle", {"v": "red", "w": "red"})
    assert set(SETS) == {path.stem for path in (tmp_path / "answers").iterdir()}
    assert answers_file.read(tmp_path / "answers" / "utility.jsonl")
    assert flags == {
        "asr_before": {"u": False},
        "asr_after": {"u": True},
        "rr_after": {"h": False},
        "ir_harmless_after": {"h": True},
        "right_everywhere": {"h": False, "k": True},
        "utility": {"v": True, "w": False},
    }
