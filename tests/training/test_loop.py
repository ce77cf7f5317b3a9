"""The loop: exact resume, SIGTERM, NaN, foreign workdirs, agreement of streams and objective."""

import dataclasses
import json
import os
import signal
import time
import types

import chex
import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import tiny
from vlm_mu_jax.data.batches import Stream
from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.model.params import flatten, unflatten
from vlm_mu_jax.model.quantize import Scheme, quantize
from vlm_mu_jax.objectives.registry import make_objective
from vlm_mu_jax.training import step
from vlm_mu_jax.training.checkpoint import Checkpoints
from vlm_mu_jax.training.feed import Feed
from vlm_mu_jax.training.goodput import Goodput
from vlm_mu_jax.training.loop import _Loop, fit
from vlm_mu_jax.training.optimizer import OptimConfig
from vlm_mu_jax.training.spec import TrainingSpec
from vlm_mu_jax.training.trainable import Selection

STEPS = 7
NPO = make_objective("npo", beta=0.5)
SELECTION = Selection.of(select=["decoder/norm_D"], slices={"decoder/layers/wdown_LFD": [1]}, lora_rank=2)


class Faulty:
    """A stream that does `action` when batch `at` is built."""

    def __init__(self, stream, at, action):
        self._stream, self._at, self._action = stream, at, action

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def with_reference(self, nll):
        return Faulty(self._stream.with_reference(nll), self._at, self._action)

    def indices(self, k):
        if k == self._at:
            self._action()
        return self._stream.indices(k)


def before_step(number, action):
    """A progress function that does `action` right before that step (1-based) starts."""

    def progress(items, label, total=None):
        for item in items:
            if label == "train" and item + 1 == number:
                action()
            yield item

    return progress


def run(params, workdir, streams=None, steps=STEPS, objective=NPO, **options):
    options = {"trainable": SELECTION, "checkpoint_every": 2, **options}
    return tiny.fit(objective, params, steps, streams, workdir=workdir, **options)


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [(line["loss"], line["forget_nll"], line["gradient_norm"]) for line in lines]


@pytest.fixture(scope="module")
def straight(params, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("straight")
    fitted = run(params, workdir)
    return workdir, fitted.params, fitted.metrics


def crash():
    raise KeyboardInterrupt


def test_a_killed_run_resumes_to_the_identical_curve_and_weights(params, straight, tmp_path):
    whole, trained, metrics = straight
    assert len(metrics["loss"]) == STEPS and len(losses(whole)) == STEPS
    broken = {**tiny.streams(NPO), "retain": Faulty(tiny.streams(NPO)["retain"], 5, crash)}
    with pytest.raises(KeyboardInterrupt):
        run(params, tmp_path, broken)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # cut short
    resumed = run(params, tmp_path).params
    assert losses(tmp_path) == losses(whole)
    chex.assert_trees_all_equal(resumed, trained)


def test_sigterm_saves_and_the_next_run_goes_on(params, straight, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(JobError, match="after step 3 of 7"):
        run(params, tmp_path, progress=before_step(3, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert signal.getsignal(signal.SIGTERM) is before
    run(params, tmp_path)
    assert losses(tmp_path) == losses(straight[0])


def test_a_finished_run_does_nothing_more(params, straight):
    workdir, trained, _ = straight
    again = run(params, workdir)
    assert not again.metrics and again.step == STEPS
    np.testing.assert_array_equal(again.params["decoder"]["norm_D"], trained["decoder"]["norm_D"])


def test_events_and_reference_cache_are_written(straight):
    workdir = straight[0]
    assert list(workdir.glob("events.out.*")) and list(workdir.glob("reference_*.jsonl"))


def test_another_run_in_the_workdir_is_refused(params, straight):
    with pytest.raises(InputError, match="other objective"):
        run(params, straight[0], objective=make_objective("npo", beta=0.6))
    with pytest.raises(InputError, match="other start weights"):
        run(unflatten({p: x * 1.01 for p, x in flatten(params).items()}), straight[0])


def test_trained_leaves_restore_alone(params, straight):
    workdir, trained, _ = straight
    checkpoints = Checkpoints(workdir / "checkpoints")
    like = {"weights": {"decoder": {"norm_D": params["decoder"]["norm_D"]}}}
    like["slices"] = {"decoder": {"layers": {"wdown_LFD": params["decoder"]["layers"]["wdown_LFD"][:1]}}}
    with pytest.raises(InputError, match="cannot be restored"):
        checkpoints.trainable(STEPS, {"weights": {"decoder": {"other_D": jnp.zeros(3)}}})
    like["lora"] = checkpoints.run(STEPS) and _lora_like()
    got = checkpoints.trainable(STEPS, like)
    np.testing.assert_array_equal(got["weights"]["decoder"]["norm_D"], trained["decoder"]["norm_D"])


def _lora_like():
    from vlm_mu_jax.model.lora import init_lora
    from vlm_mu_jax.model.vlm import param_specs

    return init_lora(param_specs(tiny.TEXT), (".*",), 2, jax.random.key(0))


def test_a_loss_that_is_not_finite_stops_the_run_and_saves_nothing(params, tmp_path):
    broken = {**params, "decoder": {**params["decoder"], "norm_D": params["decoder"]["norm_D"] * jnp.nan}}
    objective = make_objective("sft")
    with pytest.raises(JobError, match=r"step 1: not finite: .*loss nan.*learning_rate"):
        run(broken, tmp_path, objective=objective, trainable=Selection.of(select=["decoder/norm_D"]))
    assert Checkpoints(tmp_path / "checkpoints").latest() is None


def test_one_compilation_and_a_fetch_every_few_steps(params, monkeypatch):
    """After the first step has started nothing is compiled, and the host asks the device for numbers every 10 steps."""
    compiled, at_step, fetches, get = [], {}, [], jax.device_get

    def on_event(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    def progress(items, label, total=None):
        for k in items:
            at_step[k] = len(compiled)
            yield k
        at_step["end"] = len(compiled)

    jax.monitoring.register_event_duration_secs_listener(on_event)
    monkeypatch.setattr(jax, "device_get", lambda tree: fetches.append(len(at_step)) or get(tree))
    try:
        metrics = run(params, None, steps=25, objective=make_objective("sft"), progress=progress).metrics
    finally:
        jax.monitoring.unregister_event_duration_listener(on_event)
    assert at_step[0] > 0 and set(at_step.values()) == {at_step[0]}
    in_loop = [step for step in fetches if 0 < step <= 25]
    assert in_loop == [12, 22] and len(metrics["loss"]) == 25


def test_the_step_is_traced_once_for_every_row_length(params, monkeypatch):
    chex.clear_trace_counter()
    counted = chex.assert_max_traces(step.loss_and_gradients, n=2)
    monkeypatch.setattr(step, "loss_and_gradients", counted)
    streams = {"train": Stream(tiny.rows(32), 2, 0, lengths=(8, 16))}
    metrics = run(params, None, streams, steps=40, objective=make_objective("sft")).metrics
    assert len(metrics["loss"]) == 40
    with pytest.raises(AssertionError, match="traced > 2 times"):
        streams = {"train": Stream(tiny.rows(32), 2, 0, lengths=(24,))}
        run(params, None, streams, steps=1, objective=make_objective("sft"))


@pytest.mark.parametrize(("idle", "phase"), [(True, "data"), (False, "step")])
def test_a_wait_for_data_counts_when_the_device_has_run_dry(monkeypatch, idle, phase):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def waited():
        now[0] += 3.0

    goodput = Goodput()
    recorder, feed = types.SimpleNamespace(idle=lambda: idle), types.SimpleNamespace(next=waited)
    with goodput.phase("step"):
        _Loop(None, None, None, None, None, recorder, goodput, None)._next(feed)
    assert goodput.seconds()[phase] == 3.0


def test_rows_that_are_not_on_the_device_are_an_error(params, monkeypatch):
    """The guard around the step works: nothing is transferred in passing."""
    there = Feed.next

    def on_host(self):
        batch = there(self)
        return dataclasses.replace(batch, rows=jax.device_get(batch.rows))

    monkeypatch.setattr(Feed, "next", on_host)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        run(params, None, objective=make_objective("sft"))


def test_donated_start_weights_are_free_while_training(params):
    given = jax.tree.map(jnp.copy, params)
    seen = []

    def progress(items, label, total=None):
        seen.append({path for path, leaf in flatten(given).items() if leaf.is_deleted()})
        return items

    objective, selection = make_objective("sft"), Selection.of(select=["decoder/norm_D"])
    trained = run(given, None, objective=objective, trainable=selection, donate=True, progress=progress, steps=2)
    assert seen == [{"decoder/norm_D"}]
    want = run(params, None, objective=objective, trainable=selection, steps=2)
    np.testing.assert_array_equal(trained.params["decoder"]["norm_D"], want.params["decoder"]["norm_D"])


def test_start_weights_stay_valid_and_everything_is_returned(params):
    before = {path: np.asarray(leaf) for path, leaf in flatten(params).items()}
    objective = make_objective("sft")
    spec = TrainingSpec(tiny.TEXT, objective, OptimConfig(1e-2), 3)
    fitted = fit(spec, params, tiny.streams(objective))
    assert fitted.metrics["step"].tolist() == [1, 2, 3] and fitted.step == 3
    for path, leaf in flatten(params).items():
        np.testing.assert_array_equal(leaf, before[path])
        assert (flatten(fitted.params)[path] != before[path]).any(), path


@pytest.mark.parametrize(
    ("objective", "options", "message"),
    [
        (make_objective("npo"), {"streams": {"forget": tiny.stream()}}, "needs a 'retain' stream"),
        (make_objective("sft"), {"streams": {"train": tiny.stream(), "extra": tiny.stream()}}, "'extra' is not used"),
        (make_objective("sft"), {"accumulate": 3}, "batch size of train, 8"),
        (make_objective("npo", reading="as_code"), {"accumulate": 2}, "cannot be accumulated"),
    ],
)
def test_mismatches_are_named(params, objective, options, message):
    with pytest.raises(InputError, match=message):
        run(params, None, objective=objective, **options)


@pytest.mark.parametrize("text", ["int8", "int4:8"])
def test_adapters_train_over_a_base_in_few_bits_as_over_the_rounded_one(params, text, tmp_path):
    scheme, adapters = Scheme.parse(text), Selection(select=(), lora_rank=2)
    over_held = run(params, tmp_path, steps=4, trainable=adapters, quantize=scheme)
    over_rounded = run(quantize(params, scheme), None, steps=4, trainable=adapters, checkpoint_every=0)
    np.testing.assert_allclose(over_held.metrics["loss"], over_rounded.metrics["loss"], rtol=1e-5)
    chex.assert_trees_all_close(over_held.trainable, over_rounded.trainable, atol=1e-5)
    chex.assert_trees_all_close(over_held.params, over_rounded.params, atol=1e-5)
    moved = jax.tree.leaves(over_held.trainable["lora"])
    assert set(over_held.trainable) == {"lora"} and all(np.isfinite(leaf).all() and leaf.any() for leaf in moved)


def test_a_run_over_a_base_in_few_bits_goes_on_bit_for_bit_and_only_as_itself(params, tmp_path):
    options = {"trainable": Selection(select=(), lora_rank=2), "quantize": Scheme.parse("int8")}
    straight = run(params, tmp_path / "a", steps=4, **options)
    with pytest.raises(KeyboardInterrupt):
        run(params, tmp_path / "b", steps=4, progress=before_step(4, crash), **options)
    chex.assert_trees_all_equal(run(params, tmp_path / "b", steps=4, **options).trainable, straight.trainable)
    with pytest.raises(InputError, match="another --workdir"):
        run(params, tmp_path / "b", steps=4, **{**options, "quantize": Scheme.parse("int4:8")})
    with pytest.raises(InputError, match="weights in few bits do not train"):
        run(params, None, steps=4, quantize=Scheme.parse("int8"), checkpoint_every=0)
