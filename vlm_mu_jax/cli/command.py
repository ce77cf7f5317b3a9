"""Runs a command: parses its flags, answers --help quickly, and turns every failure into one line and an exit code.

Exit codes: 0 done, 1 the job failed, 2 bad input or usage, 130 interrupted. An expected failure prints one line
`error: ...` on stderr; `--debug` shows the traceback as well. Nothing heavy is imported here.
"""

import gc
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from logging import LogRecord
from pathlib import Path
from typing import Any

from absl import flags

from vlm_mu_jax import absent
from vlm_mu_jax.cli import help_page, urls
from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.files import buckets
from vlm_mu_jax.files.outputs import FULL
from vlm_mu_jax.parallel import accelerators, compilation_cache

_DEBUG = flags.DEFINE_bool("debug", False, "show the traceback when the command fails")
_RUNS = threading.Event()  # while a command's main() does
_PATH_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


def run(main: Callable[[list[str]], int | None], doc: str, actions: Sequence[str] = (), operands: str = "") -> None:
    """Runs `main(argv)` and leaves the process with its exit code.

    `main` gets argv after the flags are taken out: argv[0] is the program. A command with sub-commands (`bin/guard
    extract`) names them in `actions`: then argv[1] is one of them. A command over a list of inputs (`bin/report RUN
    RUN`) says in `operands` what they are: then argv[1:] holds at least one. Any other positional argument is a usage
    error.
    """
    gc.set_threshold(20_000, 10, 10)  # imports and traces allocate much that stays: a tenth of a short command's time
    name = _command_name()
    if (group := help_page.wanted(sys.argv[1:])) is not None:
        _finish(0, lambda: print(as_called(help_page.text(doc, group, actions))))
    _quiet_environment()
    try:
        argv = _parse(sys.argv, actions, name, operands)
        argv[1:] = urls.localised(name, _own_flags(), argv[1:])
        try:
            _RUNS.set()
            code = main(argv) or 0
        finally:
            _RUNS.clear()
            buckets.finish()
        sys.stdout.flush()
    except KeyboardInterrupt as error:
        code = 130
        _leave(error, code, "interrupted", lambda line: _report(f"{name}: {line}"))
    except BrokenPipeError as error:  # the reader of our output (`| head`) went away: nothing is left to say
        code = 1
        _leave(error, code, "nobody reads its output", lambda line: None)
    except Exception as error:
        code, message = explain(error)
        compilation_cache.drop_empty()
        _leave(error, code, message, lambda line: _report(f"error: {line}"))
    _finish(code)


def _leave(error: BaseException, code: int, message: str, say: Callable[[str], None]) -> None:
    """Says what has failed, and tells the other processes of the job, if there are any."""
    meeting = sys.modules.get("vlm_mu_jax.parallel.meeting")
    if meeting:
        meeting.hear(error)
    say(message)
    if meeting:
        meeting.leave(error, message, code)


def explain(error: Exception) -> tuple[int, str]:
    """The exit code and the one-line message for an exception."""
    if isinstance(error, InputError | flags.Error):
        return 2, _one_line(error)
    if isinstance(error, JobError):
        return 1, _one_line(error)
    if isinstance(error, _PATH_ERRORS) and error.filename:
        return 2, f"{os.fsdecode(error.filename)}: {(error.strerror or 'not usable').lower()}; check the path"
    if isinstance(error, OSError) and error.errno in FULL and error.filename:
        full = error.filename2 or error.filename  # of a copy, the second one is written
        return 1, f"{os.fsdecode(full)}: {error.strerror.lower()}; make room and run the command again"
    text = _one_line(error)
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return 1, f"{what} (run again with --debug for the traceback)"


def prepare_jax(workdir: str | Path | None = None) -> None:
    """Before a command's first work in JAX: compiled programs are kept on disk, and long compilations are told.

    Args:
      workdir: folder of the run; its programs are kept beside it (see `compilation_cache.enable`).
    """
    from vlm_mu_jax.parallel import compile_notes

    accelerators.tell_of_idle_gpu()
    compile_notes.start()
    compilation_cache.enable(workdir)


def _parse(argv: list[str], actions: Sequence[str], name: str, operands: str = "") -> list[str]:
    """Takes the flags out of argv; every usage error is an InputError with one line."""
    try:
        rest = flags.FLAGS(argv)
    except Exception as error:  # ml_collections raises plain errors for a config file or key that does not exist
        if actions and not set(actions) & set(argv[1:]):
            raise _no_action(name, actions, [word for word in argv[1:] if not word.startswith("-")]) from error
        raise InputError(_usage_problem(error, argv, name)) from error
    for flag in map(flags.FLAGS.__getitem__, flags.FLAGS):
        if type(flag.value).__name__ == "_ErrorConfig":  # how ml_collections keeps a config file it could not open
            raise InputError(_unreadable_config(flag.name, flag.value._error))
    extra = rest[1:]
    if actions and (not extra or extra[0] not in actions):
        raise _no_action(name, actions, extra)
    if operands:
        if not extra:
            raise InputError(f"{name} needs {operands}; see {name} --help")
        return rest
    if len(extra) > bool(actions):
        surplus = extra[bool(actions)]
        raise InputError(f"unexpected argument {surplus!r}; flags are written --name=value, see {name} --help")
    return rest


def _no_action(name: str, actions: Sequence[str], given: Sequence[str]) -> InputError:
    found = f"not {given[0]!r}" if given else "none is given"
    return InputError(f"{name} needs one of {', '.join(actions)} as its first argument ({found}); see {name} --help")


def _usage_problem(error: Exception, argv: list[str], name: str) -> str:
    """One line for what absl or ml_collections raised while reading the flags."""
    text = next(line.strip() for line in reversed(f"{error}".splitlines() or ["?"]) if line.strip())  # not a traceback
    text = re.sub(r"^[\w.]+Error: ", "", text)
    if isinstance(error, flags.UnrecognizedFlagError):
        if error.flagname.startswith("config.") and "config" in flags.FLAGS:
            return f"--{error.flagname} needs --config=FILE beside it; see {name} --help"
        hint = text.partition("Did you mean: ")[2].rstrip(" ?")
        return f"unknown flag --{error.flagname}; " + (f"did you mean --{hint}?" if hint else f"see {name} --help")
    if re.search(r"Flag --\S+ must have a value other than None", str(error)):
        missing = [f"--{flag.name}" for flag in _own_flags() if help_page.required(flag) and flag.value is None]
        return f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} required; see {name} --help"
    if isinstance(error, flags.Error):
        return f"{text}; see {name} --help"
    config = re.search(r"(?:^|\0)--?config[=\0]([^\0]*)", "\0".join(argv))  # --config=FILE or --config FILE
    where = f"--config={config[1]}" if config else "--config"
    if isinstance(error, KeyError | AttributeError):
        return f"{where} {_missing_key(str(error), argv)}"
    return f"{where}: {text}"


def _own_flags() -> list[flags.Flag]:
    return flags.FLAGS.get_key_flags_for_module(sys.argv[0])


def _missing_key(problem: str, argv: list[str]) -> str:
    """Names the override `--config.some.key` that the config file does not know, with the near miss if there is one."""
    near = re.search(r'Did you mean "(\w+)" instead of "(\w+)"', problem)
    missing = near[2] if near else re.sub(r"\W+", "", problem)
    overrides = [word.lstrip("-").partition("=")[0] for word in argv if word.startswith(("--config.", "-config."))]
    paths = [override.split(".")[1:] for override in overrides]
    key = next((".".join(path) for path in paths if missing in path), missing)
    advice = f"did you mean {key.replace(missing, near[1])!r}?" if near else "see the file for its keys"
    return f"has no key {key!r}; {advice}"


def _unreadable_config(name: str, error: Exception) -> str:
    """Shortens ml_collections' list of the places where it looked."""
    paths = re.findall(r"No such file or directory: '([^']+)'", str(error))
    if paths:
        return f"--{name}: there is no file {paths[-1]}; see configs/ for those that exist"
    return f"--{name}: {_one_line(error)}"


def _quiet_environment() -> None:
    """Set before JAX and transformers are imported: their start-up notes are of no use to whoever runs a command."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    accelerators.leave_out_absent_tpu()
    absent.import_transformers_without_torch()
    if not _debug_wanted():
        from absl import logging

        logging.set_verbosity(logging.ERROR)
        logging.get_absl_logger().addFilter(_is_news)
        sys.unraisablehook = _without_stragglers


def _is_news(record: LogRecord) -> bool:
    """Whether a line of the log says what no exception will: Orbax logs what it raises, once for every thread."""
    return not (record.exc_info and "orbax" in record.pathname)


def _without_stragglers(raised: Any) -> None:
    """Shows what Python drops because nobody can catch it, in a destructor for example, but for two things.

    Ctrl-C comes again a moment later, where it can be caught; after the command's end it is nothing. When one write of
    a checkpoint has failed and was told, TensorStore says that nobody waits for the others.
    """
    if issubclass(raised.exc_type, KeyboardInterrupt):
        again = threading.Timer(0.01, lambda: _RUNS.is_set() and os.kill(os.getpid(), signal.SIGINT))
        again.daemon = True
        again.start()
    elif str(raised.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(raised)


def _debug_wanted() -> bool:
    """Whether --debug was given; read from argv, since parsing itself may be what failed."""
    return any(word in ("--debug", "-debug", "--debug=true") for word in sys.argv[1:])


def _command_name() -> str:
    return f"bin/{Path(sys.argv[0]).stem}"


def as_called(text: str) -> str:
    """The text with every `bin/NAME` spelled as this command was called: `vlm-mu NAME` in an installed package."""
    program = os.environ.get("VLM_MU_PROGRAM")
    return re.sub(r"(?<![\w/.])bin/(?=\w)", f"{program} ", text) if program else text


def say(line: str) -> None:
    """Prints a line of a long command at once, with other commands spelled as this one was called."""
    print(as_called(line), flush=True)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _report(line: str) -> None:
    if _debug_wanted():
        traceback.print_exc()
    print(as_called(line), file=sys.stderr)


def _finish(code: int, last: Callable[[], None] | None = None) -> None:
    """Leaves the process; a closed pipe on the way out stays quiet."""
    try:
        if last:
            last()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
