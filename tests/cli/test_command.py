"""Every way a command can end: the exit code, one line on stderr, a traceback only when it is asked for."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from vlm_mu_jax.cli import command

COMMAND = '''"""A command that does nothing, or fails in the way that --fail names.

Example:
  bin/dummy --name=x
"""
import signal
import time
from absl import flags
from ml_collections import config_flags
from vlm_mu_jax.cli import command
from vlm_mu_jax.errors import InputError, JobError

_NAME = flags.DEFINE_string("name", None, "a name", required=True)
_SIZE = flags.DEFINE_integer("size", 3, "how many")
_WAYS = ["input", "job", "missing", "full", "copy", "interrupt", "surprise", "pipe", "dropped"]
_FAIL = flags.DEFINE_enum("fail", None, _WAYS, "how to fail")
_CONFIG = config_flags.DEFINE_config_file("config", None, "experiment file")
ACTIONS = ()
OPERANDS = ""

FAILURES = {
    "input": InputError("data.json: row 3 has no field 'id';\\n add it"),
    "job": JobError("the loss is not finite at step 3"),
    "missing": FileNotFoundError(2, "No such file or directory", "weights.safetensors"),
    "full": OSError(28, "No space left on device", "runs/a.json"),
    "copy": OSError(27, "File too large", "hf/a.json", None, "out/a.json"),
    "interrupt": KeyboardInterrupt(),
    "surprise": KeyError("oops"),
    "pipe": BrokenPipeError(),
}

class Interrupted:
    def __del__(self):
        raise KeyboardInterrupt

def main(argv):
    if _FAIL.value == "dropped":
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start without
        Interrupted()
        time.sleep(30)
    if _FAIL.value:
        raise FAILURES[_FAIL.value]
    print("steps", _CONFIG.value.optim.steps if _CONFIG.value else None, "size", _SIZE.value, "rest", argv[1:])

if __name__ == "__main__":
    command.run(main, __doc__, actions=ACTIONS, operands=OPERANDS)
'''
CONFIG = """import ml_collections
def get_config():
    return ml_collections.ConfigDict({"optim": {"steps": 5, "learning_rate": 1e-3}})
"""


@pytest.fixture
def call(tmp_path, root):
    """call(arguments, actions=(), operands="") -> the finished process of a small command in its own folder."""
    (tmp_path / "config.py").write_text(CONFIG)
    (tmp_path / "broken.py").write_text("def get_config(:\n")
    (tmp_path / "raises.py").write_text("def get_config():\n    raise ValueError('odd batch size')\n")

    def run(*arguments: str, actions: tuple = (), operands: str = "") -> subprocess.CompletedProcess:
        script = tmp_path / "dummy.py"
        source = COMMAND.replace("ACTIONS = ()", f"ACTIONS = {actions!r}")
        script.write_text(source.replace('OPERANDS = ""', f"OPERANDS = {operands!r}"))
        return subprocess.run(
            [sys.executable, str(script), *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def only_line(done: subprocess.CompletedProcess) -> str:
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_a_good_call_gets_its_flags_and_overrides(call):
    done = call("--name=x", "--size=4", "--config=config.py", "--config.optim.steps=7")
    assert (done.returncode, done.stdout, done.stderr) == (0, "steps 7 size 4 rest []\n", "")


def test_help_is_the_docstring_and_this_command_s_flags(call):
    done = call("--help")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("A command that does nothing")
    assert "bin/dummy --name=x" in done.stdout
    for wanted in ("--name=STRING", "(required)", "(default 3)", "--config", "--debug", "input|job|missing"):
        assert wanted in done.stdout
    assert "--flagfile" not in done.stdout and "--verbosity" not in done.stdout


def test_help_about_one_subject_is_only_that(call):
    assert "--help=all" in call("--help=zebra").stdout
    assert call("--help=all").stdout == call("--help").stdout  # few flags are all shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--name is required"),
        (["--nam=x"], "unknown flag --nam; did you mean --name?"),
        (["--name=x", "--zebra=1"], "unknown flag --zebra; see bin/dummy --help"),
        (["--name=x", "stray"], "unexpected argument 'stray'"),
        (["--name=x", "--size=abc"], "--size=abc"),
        (["--name=x", "--fail=never"], "--fail=never"),
        (["--name=x", "--config=nope.py"], "there is no file"),
        (["--name=x", "--config=broken.py"], "invalid syntax"),
        (["--name=x", "--config=raises.py"], "odd batch size"),
        (["--name=x", "--config=config.py", "--config.optim.stps=3"], "'optim.stps'; did you mean 'optim.steps'?"),
        (["--name=x", "--config", "config.py", "--config.zebra=3"], "--config=config.py has no key 'zebra'"),
        (["--name=x", "--config=config.py", "--config.optim.steps=many"], "--config.optim.steps=many"),
        (["--name=x", "--config.optim.steps=3"], "--config.optim.steps needs --config=FILE"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(call, arguments, says):
    done = call(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    line = only_line(done)
    assert line.startswith("error: ") and says in line


@pytest.mark.parametrize(
    ("failure", "code", "says"),
    [
        ("input", 2, "error: data.json: row 3 has no field 'id'; add it"),
        ("job", 1, "error: the loss is not finite at step 3"),
        ("missing", 2, "error: weights.safetensors: no such file or directory; check the path"),
        ("full", 1, "error: runs/a.json: no space left on device; make room and run the command again"),
        ("copy", 1, "error: out/a.json: file too large; make room and run the command again"),
        ("interrupt", 130, "bin/dummy: interrupted"),
        ("surprise", 1, "error: KeyError: 'oops' (run again with --debug for the traceback)"),
    ],
)
def test_failures_have_their_exit_code_and_one_line(call, failure, code, says):
    done = call("--name=x", f"--fail={failure}")
    assert (done.returncode, only_line(done)) == (code, says)
    debugged = call("--name=x", f"--fail={failure}", "--debug")
    assert debugged.returncode == code
    assert "Traceback (most recent call last)" in debugged.stderr
    assert debugged.stderr.splitlines()[-1] == says


def test_an_interrupt_that_comes_where_python_drops_it_still_ends_the_command(call):
    done = call("--name=x", "--fail=dropped")
    assert (done.returncode, only_line(done)) == (130, "bin/dummy: interrupted")


def test_a_reader_that_went_away_is_no_error_message(call):
    done = call("--name=x", "--fail=pipe")
    assert (done.returncode, done.stderr) == (1, "")


def test_actions_are_checked(call):
    actions = ("extract", "apply")
    assert call("apply", "--name=x", actions=actions).stdout == "steps None size 3 rest ['apply']\n"
    wrong = [["--name=x"], "none is given"], [[], "none is given"], [["aply", "--name=x"], "not 'aply'"]
    for arguments, says in wrong:
        done = call(*arguments, actions=actions)
        assert done.returncode == 2 and "extract, apply" in only_line(done) and says in only_line(done)


@pytest.mark.parametrize(("said", "shown"), [("Event loop is closed", 0), ("something else", 1)])
def test_what_follows_a_write_that_failed_is_not_told_again(said, shown, monkeypatch):
    told = []
    monkeypatch.setattr(sys, "__unraisablehook__", told.append)
    command._without_stragglers(SimpleNamespace(exc_type=RuntimeError, exc_value=RuntimeError(said)))
    assert len(told) == shown


def test_operands_are_wanted(call):
    assert call("a", "--name=x", "b", operands="run folders").stdout == "steps None size 3 rest ['a', 'b']\n"
    done = call("--name=x", operands="run folders")
    assert done.returncode == 2 and "needs run folders" in only_line(done)


def test_an_interrupt_before_the_command_listens_is_one_line(tmp_path, root):
    early = tmp_path / "absl" / "__init__.py"  # the first library that a command imports
    early.parent.mkdir()
    early.write_text("raise KeyboardInterrupt\n")
    done = subprocess.run(
        [sys.executable, "-m", "vlm_mu_jax.cli.report"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, only_line(done)) == (-signal.SIGINT, "interrupted")
