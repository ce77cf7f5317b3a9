"""Plans a run for chips that are not here: does it fit, what bounds its speed, which collectives does it need.

The real program of the config (its objective, what trains, mesh, batch, row length, remat, accumulation) is compiled
ahead of time for a TPU topology by libtpu, on a machine without any accelerator and without weights. FLOPs are
analytic; the roofline time is the least that peak rates of arithmetic, memory and links allow, so a real run is slower.
For GPUs there is no such compiler: the same program is compiled for as many TPU v5p chips, and figures are estimates.
The model is that of config.model.init when the folder is there, else the published one that config.model.like names.
Rows have config.data.max_length tokens. Exit code 1 when it does not fit.

Example:
  bin/plan --config=configs/llava15_unlearn.py:7b_npo --topology=v5e:8x8
"""

from absl import flags

from vlm_mu_jax.cli import command, config_flag, shared_flags

_CONFIG = config_flag.define()
_TOPOLOGY = flags.DEFINE_string(
    "topology", None, "TPU type and slice shape (v5e:8x8, v5p:2x2x1), or gpu:NUMBERxNAME (gpu:8xH100)", required=True
)
_WHAT = flags.DEFINE_enum("what", "train", ["train", "decode", "attack", "guard"], "the program to plan")
_HBM = flags.DEFINE_float("hbm_gib", None, "memory per chip in GiB, instead of the chip's own", lower_bound=0.001)
_JSON = shared_flags.json()
flags.adopt_module_key_flags(config_flag)


def main(argv: list[str]) -> int:
    import json
    import os
    import sys

    from vlm_mu_jax.errors import InputError

    if _CONFIG.value is None:
        raise InputError("--config is required; give an experiment file such as configs/llava15_unlearn.py:7b_npo")
    os.environ["JAX_PLATFORMS"] = "cpu"  # nothing runs here, and an accelerator must not be taken for it
    from vlm_mu_jax.training import settings

    config = settings.checked(_CONFIG.value)

    from vlm_mu_jax.planning.jobs import model_config
    from vlm_mu_jax.planning.plan import plan
    from vlm_mu_jax.planning.text import text
    from vlm_mu_jax.planning.topology import target

    where = target(_TOPOLOGY.value, _HBM.value)
    found = plan(_WHAT.value, config, model_config(config), where, tell=lambda line: print(line, file=sys.stderr))
    print(json.dumps(found) if _JSON.value else text(found))
    return 0 if found["fits"] else 1


if __name__ == "__main__":
    command.run(main, __doc__)
