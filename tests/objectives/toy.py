"""A toy language model (a table of hidden states per token, then a head) and ragged rows for every stream.

It stands for a model in the property tests: the hidden state of a position depends on its token alone, so that whatever
an objective does with padding, batches and masks shows in the loss and nowhere else.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from tests.objectives.fake_policy import IMAGE, FakePolicy, rows

V, D, B, T = IMAGE + 1, 6, 4, 12


def table(seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(V, D)), jnp.float32)


HEAD = jnp.asarray(np.random.default_rng(100).normal(size=(D, V)), jnp.float32)
THETA, REFERENCE = table(101), table(102)


@dataclasses.dataclass
class Part:
    """Rows of one stream as numpy; lengths and numbers of answer tokens differ."""

    tokens: np.ndarray
    mask: np.ndarray
    lengths: np.ndarray
    reference: np.ndarray

    def take(self, indices):
        return Part(*(getattr(self, field.name)[indices] for field in dataclasses.fields(self)))

    def padded(self, more, token=7):
        """Longer rows; the new positions hold a real token that must not count."""
        tokens = np.pad(self.tokens, ((0, 0), (0, more)), constant_values=token)
        return dataclasses.replace(self, tokens=tokens, mask=np.pad(self.mask, ((0, 0), (0, more))))

    def batch(self):
        return rows(self.tokens, self.mask, self.lengths, self.reference)


def part(seed):
    """A beginning token, two image tokens, a prompt, an answer of 1 to 5 tokens, padding."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, IMAGE, (B, T))
    tokens[:, 1:3] = IMAGE
    starts, counts = rng.integers(5, 7, B), rng.permutation([1, 2, 3, 5])
    positions = np.arange(T)[None]
    mask = (positions >= starts[:, None]) & (positions < (starts + counts)[:, None])
    return Part(tokens, mask, starts + counts, rng.uniform(2, 9, B).astype(np.float32))


def parts(objective):
    names = (*objective.streams, *objective.optional_streams)
    return {name: part(i) for i, name in enumerate(names)}


def loss_and_gradient(objective, streams, micro=1, theta=THETA, raised=0.0):
    """Loss and gradient over all micro-batches, as `training.step` takes them. raised: added to all logits."""
    pieces = [
        {name: p.take(np.array_split(np.arange(len(p.tokens)), micro)[i]).batch() for name, p in streams.items()}
        for i in range(micro)
    ]
    counted = [objective.denominators(piece, IMAGE) for piece in pieces]
    totals = {name: sum(one[name] for one in counted) for name in counted[0]}
    constants = {**objective.constants(D, 0), **objective.duals()}

    def run(theta):
        policy = FakePolicy(
            lambda r: theta[r.batch.tokens_BT],
            lambda h: h @ HEAD + raised,
            lambda r: REFERENCE[r.batch.tokens_BT],
            constants,
        )
        found = [objective.loss(policy, piece, totals) for piece in pieces]
        metrics = {name: sum(more[name] for _, more in found) for name in found[0][1]}
        return sum(one for one, _ in found), metrics

    (loss, metrics), gradient = jax.value_and_grad(run, has_aux=True)(theta)
    return loss, gradient, metrics
