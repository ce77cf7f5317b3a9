"""A long compilation is announced by name, a short one is not."""

import time

import jax
import jax.numpy as jnp

from vlm_mu_jax.parallel import compile_notes


def test_what_takes_long_is_said_while_it_compiles(capsys, monkeypatch):
    heard = []
    monkeypatch.setattr(jax.monitoring, "register_event_duration_secs_listener", heard.append)
    compile_notes.start()
    (listener,) = heard
    monkeypatch.setattr(compile_notes, "SECONDS", 0.05)
    listener(compile_notes._LOWERED, 0.1, fun_name="jit(step)")
    listener(compile_notes._COMPILED, 0.01)
    time.sleep(0.2)
    assert capsys.readouterr().err == "", "it was compiled in time"
    listener(compile_notes._LOWERED, 0.1, fun_name="jit(step)")
    said, end = "", time.monotonic() + 30
    while not said and time.monotonic() < end:  # a busy machine's thread comes when it may
        time.sleep(0.05)
        said += capsys.readouterr().err
    listener(compile_notes._COMPILED, 0.2)
    assert said == "compiling step ...\n"


def test_jax_tells_of_both_with_the_name(monkeypatch):
    heard = []

    def listen(event, seconds, **about):
        heard.append((event, about.get("fun_name")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.jit(lambda x: x * 3 + 1.25)(jnp.ones(7))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    events = [event for event, _ in heard]
    assert events.index(compile_notes._LOWERED) < events.index(compile_notes._COMPILED)
    assert any(event == compile_notes._LOWERED and name for event, name in heard)
