"""Public data sets in bin/eval: which of them lie on this disk (--list), and asking them (--utility, --safety)."""

import sys

from absl import flags

LIST = flags.DEFINE_bool(
    "list", False, "print which public data sets are ready under --data_root and where each comes from; asks nothing"
)
DATA_ROOT = flags.DEFINE_string(
    "data_root", None, "folder with one folder per public data set, upstream's files in it (see docs/datasets.md)"
)
UTILITY = flags.DEFINE_list(
    "utility", [], "public utility sets to ask and score by their own rules, such as pope_random,scienceqa_img"
)
SAFETY = flags.DEFINE_list("safety", [], "public safety sets to ask, such as xstest,figstep")


def needs_run() -> bool:
    """Whether the command line asks a model anything, so that --checkpoint and --workdir are required."""
    return not any(word in ("--list", "-list", "--list=true") for word in sys.argv[1:])


def needs_data() -> bool:
    """Whether --data is required: not for public sets alone."""
    return needs_run() and not any(word.lstrip("-").startswith(("utility", "safety")) for word in sys.argv[1:])


def names_from_flags() -> list[str]:
    """The public sets asked for. Raises InputError for an unknown one, or without --data_root."""
    from vlm_mu_jax.evaluation.questions import public_sets

    return public_sets.checked(SAFETY.value, UTILITY.value, DATA_ROOT.value)
