"""The flag --quantize: a model's weights as storage in 8 or 4 bits would leave them."""

from absl import flags

QUANTIZE = flags.DEFINE_string(
    "quantize",
    None,
    "round the decoder's weights as storage in few bits would: int8, int4 or nf4, with :N or :channel for scales of N"
    " inputs or of a whole output channel, such as int4:32; the arithmetic stays in floating point",
)
