"""ASR by turn: one line as asked, one behind the attack's word, one behind a neutral word."""

from tests.reporting.figures.test_shots import points, run
from vlm_mu_jax.reporting.figures import turns
from vlm_mu_jax.reporting.page import rate_tables

ASKED = {"dialogues__asr_by_turn__10": 0.5, "dialogues__asr_by_turn__2": 0.2, "dialogues__asr_by_turn__1": 0.1}


def test_turns_stand_in_their_order_beside_the_words():
    after = {"dialogues__asr_by_turn_after__1": 0.3, "dialogues__asr_by_turn_after__2": 0.9}
    drawing = turns.asr_by_turn([run(**ASKED, **after)])
    assert points(drawing) == [[(1, 0.1), (2, 0.2), (10, 0.5)], [(1, 0.3), (2, 0.9)]]
    assert "neutral" not in drawing
    table = rate_tables.turns([run(**ASKED, **after), run(asr_after=0.1)])
    assert table.columns == ["Model", "Turn 1", "Turn 2", "Turn 10"] and len(table.rows) == 2
    assert table.rows[1][1][2][0] == "–"  # that dialogue has no turn 10


def test_without_dialogues_there_is_nothing_to_draw():
    assert turns.asr_by_turn([run(asr_after=0.4)]) is None and rate_tables.turns([run(asr_after=0.4)]) is None
