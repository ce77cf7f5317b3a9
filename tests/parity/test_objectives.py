"""Losses and gradients of every objective equal PyTorch statements of the public formulas on random tiny LLaVAs."""

import copy
import importlib.util
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.conftest import ROOT
from tests.conversion.hf_checkpoints import make_llava, save
from vlm_mu_jax.conversion import importer
from vlm_mu_jax.data.batches import TrainBatch
from vlm_mu_jax.model.params import flatten
from vlm_mu_jax.model.vlm import Batch
from vlm_mu_jax.objectives.reading import Read, Reading
from vlm_mu_jax.objectives.registry import FORGET, make_objective
from vlm_mu_jax.training.model_policy import ModelPolicy

STREAMS = ("forget", "preferred", "retain")
TOLERANCE = 1e-5  # relative; for gradients, of the norm of a parameter's gradient
LAYER, LAYERS = 1, (0, 1)
PROGRESS = 0.1  # of rerouting, at its first update

spec = importlib.util.spec_from_file_location("objectives_torch", ROOT / "third_party/peers/objectives_torch.py")
peer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(peer)

# name -> (objective, options, the peer's loss); general data stay out, their term is the one on retain
CASES = {
    "ga": ("ga", {}, lambda m, ref, d, c: -peer.ce(m, d["forget"])),
    "graddiff, KL": (
        "graddiff",
        {"forget_weight": 0.3, "retain_weight": 0.0, "retain_kl": 2.0},
        lambda m, ref, d, c: -0.3 * peer.ce(m, d["forget"]) + 2 * peer.kl(m, ref, d["retain"]),
    ),
    "npo as paper": (
        "npo",
        {"beta": 0.1, "retain_weight": 2.0},
        lambda m, ref, d, c: peer.npo(m, ref, d["forget"], 0.1, "sequence_sum") + 2 * peer.ce(m, d["retain"]),
    ),
    "npo as code": (
        "npo",
        {"reading": "as_code", "beta": 0.9},
        lambda m, ref, d, c: (
            peer.npo(m, ref, d["forget"], 0.9, "batch_token_mean")
            + peer.ce(m, d["retain"])
            + peer.preference(m, ref, d["retain"], 0.9, "batch_token_mean")
        ),
    ),
    "npo token mean": (
        "npo",
        {"reduction": "token_mean", "beta": 2.0},
        lambda m, ref, d, c: peer.npo(m, ref, d["forget"], 2.0, "token_mean") + peer.ce(m, d["retain"]),
    ),
    "simnpo": (
        "simnpo",
        {"beta": 2.5, "delta": 0.5, "forget_weight": 0.125},
        lambda m, ref, d, c: 0.125 * peer.simnpo(m, d["forget"], 2.5, 0.5) + peer.ce(m, d["retain"]),
    ),
    "dpo": (
        "dpo",
        {"beta": 0.2},
        lambda m, ref, d, c: peer.dpo(m, ref, d["preferred"], d["forget"], 0.2) + peer.ce(m, d["retain"]),
    ),
    "undial": (
        "undial",
        {"beta": 3.0, "retain_weight": 0.0},
        lambda m, ref, d, c: peer.undial(m, ref, d["forget"], 3.0),
    ),
    "ceu": ("ceu", {"retain_weight": 0.0}, lambda m, ref, d, c: peer.ceu(m, d["forget"], 1)),
    "wga": (
        "wga",
        {"beta": 0.5},
        lambda m, ref, d, c: peer.weighted_ascent(m, d["forget"], 0.5, 0.0) + peer.ce(m, d["retain"]),
    ),
    "satimp": (
        "satimp",
        {"beta1": 0.7, "beta2": 1.5, "forget_weight": 2.0},
        lambda m, ref, d, c: 2 * peer.weighted_ascent(m, d["forget"], 0.7, 1.5) + peer.ce(m, d["retain"]),
    ),
    "pdu": (
        "pdu",
        {"retain_limit": 0.3, "retain_weight": 4.0},
        lambda m, ref, d, c: peer.flat(m, d["forget"]) + 4 * (peer.ce(m, d["retain"]) - 0.3),
    ),
    "rmu as paper": (
        "rmu",
        {"layer": LAYER, "retain_alpha": 0.5},
        lambda m, ref, d, c: (
            peer.rmu_paper(m, d["forget"], LAYER, c)
            + peer.ce(m, d["retain"])
            + 0.5 * peer.hold_paper(m, ref, d["retain"], LAYER)
        ),
    ),
    "adaptive rmu": (
        "adaptive_rmu",
        {"layers": LAYERS, "scale": 1.5, "retain_alpha": 0.5},
        lambda m, ref, d, c: (
            peer.adaptive_rmu(m, ref, d["forget"], LAYERS, 1.5, c)
            + peer.ce(m, d["retain"])
            + 0.5 * sum(peer.hold_paper(m, ref, d["retain"], layer) for layer in LAYERS) / 2
        ),
    ),
    "rr": (
        "rr",
        {"layers": (LAYER,), "horizon": 10, "forget_weight": 3.0, "retain_alpha": 3.0},
        lambda m, ref, d, c: (
            3 * (1 - PROGRESS) * peer.rerouting(m, ref, d["forget"], (LAYER,))
            + 3 * PROGRESS * peer.tether(m, ref, d["retain"], LAYERS)
        ),
    ),
    "rmu as code": (
        "rmu",
        {"layer": LAYER, "reading": "as_code"},
        lambda m, ref, d, c: (
            peer.rmu_code(m, d["forget"], LAYER, c)
            + peer.ce(m, d["retain"])
            + peer.hold_code(m, ref, d["retain"], LAYER)
        ),
    ),
}

OBJECTIVES = {case: make_objective(name, **options) for case, (name, options, _) in CASES.items()}


def test_every_objective_has_a_peer():
    assert {name for name, *_ in CASES.values()} == FORGET.keys() - {"idkdpo"}  # which is dpo on other data


class Pair:
    """A random LLaVA before and in training, on both sides, and one compiled program for what all objectives read."""

    def __init__(self, seed, folder):
        self.before = make_llava(seed, text={"num_hidden_layers": 2}, vision={"num_hidden_layers": 2})
        self.theirs = moved(self.before, seed)
        ours = importer.import_checkpoint(save(self.theirs, folder / "now"))
        self.params, self.cfg = jax.tree.map(jnp.asarray, ours.params), ours.config
        self.reference = jax.tree.map(
            jnp.asarray, importer.import_checkpoint(save(self.before, folder / "before")).params
        )
        known = {name: random_rows(self.cfg, np.random.default_rng([seed, i])) for i, name in enumerate(STREAMS)}
        found = [read.tokens for objective in OBJECTIVES.values() for read in objective.reads(known).values()]
        self.losses = tuple(dict.fromkeys(loss for tokens in found for loss in tokens))
        reads = dict.fromkeys(STREAMS, Read(self.losses, LAYERS, reference=True))

        def read(params):
            policy = ModelPolicy(params, None, self.reference, self.cfg, {})
            return {
                name: ([r.sums[loss] for loss in self.losses], r.hidden, r.reference)
                for name, r in policy.read(known, reads).items()
            }

        old = jax.jit(lambda rows: ModelPolicy(self.reference, None, None, self.cfg, {}).nll(rows)[0])
        self.rows = {name: batch.replace(reference_nll_B=old(batch)) for name, batch in known.items()}
        self.arrays = jax.jit(read)(self.params)
        self.pull = jax.jit(lambda cotangent: jax.vjp(read, self.params)[1](cotangent)[0])

    def loss_and_gradient(self, objective, constants):
        """Ours: the objective on what the model read, and its gradient pulled back to the parameters."""
        rows = {name: self.rows[name] for name in objective.streams}
        totals = objective.denominators(rows, self.cfg.image_token_id)

        def loss(arrays):
            seen = {
                name: Reading(dict(zip(self.losses, sums, strict=True)), hidden, before)
                for name, (sums, hidden, before) in arrays.items()
            }
            policy = SimpleNamespace(read=lambda *_: seen, constants=constants, image_token_id=self.cfg.image_token_id)
            return objective.loss(policy, rows, totals)[0]

        value, cotangent = jax.value_and_grad(loss)(self.arrays)
        return float(value), flatten(self.pull(cotangent))


@pytest.fixture(scope="module", params=[3, pytest.param(8, marks=pytest.mark.slow)])
def pair(request, tmp_path_factory):
    return Pair(request.param, tmp_path_factory.mktemp("llava"))


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_agree(pair, case):
    objective, stated = OBJECTIVES[case], CASES[case][2]
    constants = {**objective.constants(pair.cfg.text.D, 0), **objective.duals()}
    loss, gradient = pair.loss_and_gradient(objective, constants)
    control = torch.tensor(np.asarray(constants.get("control_D", 0.0)))
    pair.theirs.zero_grad()
    want = stated(pair.theirs, pair.before, {n: as_torch(b) for n, b in pair.rows.items()}, control)
    want.backward()
    assert abs(loss - want.item()) <= TOLERANCE * abs(want.item())
    compare(gradient, pair.theirs, pair.cfg)


def moved(model, seed):
    """The model in training: every weight of the model before it, changed a little."""
    generator = torch.Generator().manual_seed(1000 + seed)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight += 0.1 * weight.std(correction=0) * torch.randn(weight.shape, generator=generator)
    return other


def random_rows(cfg, rng, rows=3):
    """One image per row, prompts and answers of different lengths, right-padded."""
    image = [cfg.image_token_id] * cfg.vision.P
    ids, answers = [], []
    for _ in range(rows):
        prompt = [1, *image, *rng.integers(2, cfg.image_token_id, rng.integers(2, 6))]
        answer = rng.integers(2, cfg.image_token_id, rng.integers(3, 8))
        ids.append([int(t) for t in (*prompt, *answer)])
        answers.append(len(answer))
    lengths = np.array([len(row) for row in ids], np.int32)
    tokens, mask = (np.zeros((rows, lengths.max() + 2), kind) for kind in (np.int32, bool))
    for i, row in enumerate(ids):
        tokens[i, : len(row)] = row
        mask[i, len(row) - answers[i] : len(row)] = True
    size = cfg.vision.image_size
    pixels = rng.normal(size=(rows, 1, size, size, 3)).astype(np.float32)
    return TrainBatch(Batch(jnp.asarray(tokens), jnp.asarray(lengths), jnp.asarray(pixels)), jnp.asarray(mask))


def as_torch(rows):
    tokens, mask = (torch.tensor(np.asarray(x)) for x in (rows.batch.tokens_BT, rows.mask_BT))
    real = torch.arange(tokens.shape[1])[None] < torch.tensor(np.asarray(rows.batch.lengths_B))[:, None]
    pixels = torch.tensor(np.asarray(rows.batch.pixels_BMHWC)).flatten(0, 1).permute(0, 3, 1, 2).contiguous()
    labels = torch.where(mask, tokens, -100).long()
    return {"input_ids": tokens.long(), "attention_mask": real.long(), "pixel_values": pixels, "labels": labels}


def compare(gradient, theirs, cfg):
    """Gradients of named parameters, from both ends of the model; where theirs is zero, ours is."""
    named = {
        "decoder/embed_VD": ("model.language_model.embed_tokens.weight", lambda g: g),
        "decoder/head_DV": ("lm_head.weight", np.transpose),
        "decoder/norm_D": ("model.language_model.norm.weight", lambda g: g),
        "projector/w1_ED": ("model.multi_modal_projector.linear_1.weight", np.transpose),
    }
    for layer in range(cfg.text.L):
        prefix = f"model.language_model.layers.{layer}."
        named |= {
            f"decoder/layers/wdown_LFD {layer}": (f"{prefix}mlp.down_proj.weight", np.transpose),
            f"decoder/layers/wq_LDNH {layer}": (
                f"{prefix}self_attn.q_proj.weight",
                lambda g: g.T.reshape(cfg.text.D, cfg.text.N, cfg.text.H),
            ),
        }
    weights, nonzero = dict(theirs.named_parameters()), 0
    for ours, (name, turned) in named.items():
        path, _, layer = ours.partition(" ")
        got = np.asarray(gradient[path][int(layer)] if layer else gradient[path])
        found = weights[name].grad
        want = np.zeros_like(got) if found is None else turned(found.numpy())
        size = np.linalg.norm(want)
        assert np.linalg.norm(got - want) <= TOLERANCE * size, (ours, np.linalg.norm(got - want) / max(size, 1e-30))
        nonzero += size > 0
    assert nonzero >= 4
