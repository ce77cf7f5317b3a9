"""The project's own files tell the truth: dependencies, pins, file lengths, links in the guides."""

import ast
import functools
import re
import sys
import tomllib
from pathlib import Path

import pytest

from tests import slow_files
from vlm_mu_jax.attacks import options as attack_options
from vlm_mu_jax.data import images
from vlm_mu_jax.evaluation.defences import wrappers
from vlm_mu_jax.model import steer
from vlm_mu_jax.steering import estimators, export, gates, guard_options, operators, published_guards

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = sorted((ROOT / "constraints").glob("py*.txt"))
# Where the name to import is not the name to install.
INSTALL_NAME = {"PIL": "pillow", "absl": "absl-py", "orbax": "orbax-checkpoint"}


def name_of(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def imported_packages() -> set[str]:
    """The installable names of all third-party packages that the product's files import, at any level."""
    found = set()
    for file in [*(ROOT / "vlm_mu_jax").rglob("*.py"), *(ROOT / "configs").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.partition(".")[0])
    found -= set(sys.stdlib_module_names) | {"vlm_mu_jax"}
    return {INSTALL_NAME.get(name, name).lower().replace("_", "-") for name in found}


def test_what_is_imported_is_declared_and_the_other_way_round():
    """Packages of an optional extra are imported where they are needed, the others anywhere."""
    extras = PYPROJECT["project"]["optional-dependencies"]
    optional = [
        line
        for name in ("data", "hub", "judge", "rouge", "serve", "trackio", "wandb", "words")
        for line in extras.get(name, [])
    ]
    declared = {name_of(line) for line in PYPROJECT["project"]["dependencies"] + optional}
    assert imported_packages() == declared


@pytest.mark.parametrize("file", PINS, ids=lambda path: path.stem)
def test_pins_lie_inside_the_declared_ranges(file):
    from packaging.requirements import Requirement

    pins = dict(line.split("==") for line in file.read_text().lower().replace("_", "-").splitlines() if "==" in line)
    extras = PYPROJECT["project"]["optional-dependencies"]
    for line in PYPROJECT["project"]["dependencies"] + extras["test"]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(pins[name_of(line)]), line


def test_there_are_pins_for_every_supported_python():
    names = {f"py{version.replace('.', '')}" for version in ("3.11", "3.12", "3.13")}
    assert {path.stem for path in PINS} == names
    assert PYPROJECT["project"]["requires-python"] == ">=3.11,<3.14"


SOURCES = sorted((ROOT / "vlm_mu_jax").rglob("*.py"))
LONGEST_FILE, LONGEST_FUNCTION = 400, 60  # lines; of a function without its docstring


def test_no_file_is_too_long():
    """A file past about 400 lines usually holds two ideas."""
    assert not {str(path.relative_to(ROOT)): lines(path) for path in SOURCES if lines(path) > LONGEST_FILE}


def test_no_function_is_too_long():
    long = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                words = ast.get_docstring(node, clean=False) or ""
                length = node.end_lineno - node.lineno + 1 - len(words.splitlines())
                if length > LONGEST_FUNCTION:
                    long[f"{path.relative_to(ROOT)}:{node.name}"] = length
    assert not long


def test_no_two_public_classes_share_a_name():
    """One word for one thing: a reader who meets a name in two rooms must be able to trust it."""
    found: dict[str, list[str]] = {}
    for path in SOURCES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert not {name: files for name, files in found.items() if len(files) > 1}


def test_flags_stay_in_the_commands():
    """A function of any other room takes arguments: what a command does, a notebook can do."""
    read = {path for path in SOURCES if re.search(r"^\s*(from|import) absl\b", path.read_text(encoding="utf-8"), re.M)}
    assert read and not [str(path) for path in read if path.parent.name != "cli"]


FLAG_MACHINERY = ("command.py", "config_flag.py", "help_page.py", "urls.py")  # handle all flags, and read none by name


def reads_flags(function: str) -> bool:
    return function == "main" or function.endswith("_from_flags")


def test_commands_read_their_flags_in_main_and_in_functions_named_so():
    """Every other function of cli/ takes arguments, so that a reader sees what it depends on."""
    wrong = []

    def look(node: ast.AST, function: str, path: Path) -> None:
        for child in ast.iter_child_nodes(node):
            attribute, plain = getattr(child, "attr", ""), getattr(child, "id", "")
            name = attribute or plain
            reads = attribute in ("value", "present", "FLAGS") and path.name not in FLAG_MACHINERY
            if (reads or name.endswith("_from_flags")) and not reads_flags(function):
                wrong.append(f"{path.name}:{child.lineno} {function or 'at the top'}: {name}")
            top = isinstance(child, ast.FunctionDef) and not function
            look(child, child.name if top else function, path)

    commands = [path for path in SOURCES if path.parent.name == "cli"]
    for path in commands:
        look(ast.parse(path.read_text(encoding="utf-8")), "", path)
    assert commands and not wrong


def test_the_files_that_architecture_names_exist():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_]+/[a-z_/]*(?:\.py)?)`", text)
    assert len(named) > 40
    missing = [name for name in named if not (ROOT / "vlm_mu_jax" / name).exists() and not (ROOT / name).exists()]
    assert not missing


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("guide", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda path: path.name)
def test_links_and_commands_in_the_guides_exist(guide):
    text = guide.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        assert "://" in target or (guide.parent / target).exists(), f"{guide.name} links to {target}"
    for command in set(re.findall(r"(?<!/)\bbin/(\w+)", text)):  # not /bin/bash
        assert (ROOT / "bin" / command).exists(), f"{guide.name} names bin/{command}"
    for config in set(re.findall(r"\bconfigs/(\w+\.py)", text)):
        assert (ROOT / "configs" / config).exists(), f"{guide.name} names configs/{config}"


def test_a_shared_flag_is_defined_by_the_function_of_its_name():
    """`defined_flags` reads names from calls."""
    tree = ast.parse((ROOT / "vlm_mu_jax" / "cli" / "shared_flags.py").read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert functions and all(f'("{node.name}"' in ast.unparse(node).replace("'", '"') for node in functions)


def defined_flags(source: Path) -> set[str]:
    """Flags of a command and of the modules of cli/ that it takes flags from (cluster and the like)."""
    text = source.read_text()
    imports = [node for node in ast.parse(text).body if isinstance(node, ast.ImportFrom)]
    names = [alias.name for node in imports if node.module == "vlm_mu_jax.cli" for alias in node.names]
    beside = [source.with_name(f"{name}.py") for name in names if name != "shared_flags"]
    texts = [text, *(path.read_text() for path in beside if path.exists())]
    return {flag for text in texts for flag in re.findall(r'(?:DEFINE_\w+\(\s*"|shared_flags\.)(\w+)', text)}


@pytest.mark.parametrize("guide", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda path: path.name)
def test_flags_in_the_guides_exist(guide):
    """Each `bin/NAME --flag` of a guide is defined in that command (config overrides are not looked at)."""
    for name, arguments in re.findall(r"bin/(\w+)((?:[^\n`]|\\\n)*)", guide.read_text(encoding="utf-8")):
        source = ROOT / "vlm_mu_jax" / "cli" / f"{name}.py"
        if not source.exists():
            continue
        defined = defined_flags(source) | {"help", "debug"}
        used = set(re.findall(r"--(?!config\.)(\w+)", arguments))
        assert used <= defined, f"{guide.name}: bin/{name} has no {used - defined}"


def test_the_list_of_slow_test_files_names_files_that_exist():
    assert all((ROOT / "tests" / file).is_file() for file in slow_files.read())


def enumerated(command: str, flag: str) -> set[str]:
    """The values of a flag in the source of a command."""
    tree = ast.parse((ROOT / "vlm_mu_jax" / "cli" / f"{command}.py").read_text(encoding="utf-8"))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "flags.DEFINE_enum"]
    (found,) = [call.args[2] for call in calls if ast.literal_eval(call.args[0]) == flag]
    return set(ast.literal_eval(found))


def test_enumerated_flags_offer_what_the_library_has():
    """The lists stand in the commands a second time, so that --help starts without JAX."""
    extract = functools.partial(enumerated, "guard_extract")
    assert enumerated("eval", "defence") == set(wrappers.DEFENCES)
    assert enumerated("guard_export", "as") == set(export.FORMS)
    assert enumerated("shared_flags", "blank") == set(images.BLANK_KINDS)
    assert extract("method") == set(published_guards.METHODS)
    assert extract("estimator") == set(estimators.ESTIMATORS)
    assert extract("operator") == set(operators.OPERATORS)
    assert extract("gate") == set(gates.GATES)
    assert extract("scope") == set(steer.SCOPES)
    assert extract("decide") == set(guard_options.DECIDERS)
    assert extract("gate_source") == set(guard_options.SOURCES)
    assert extract("component") == set(guard_options.COMPONENTS) - {"adaptive"}  # AdaSteer's own
    assert extract("unit") == set(guard_options.UNITS)
    of_attack = ast.parse((ROOT / "vlm_mu_jax" / "cli" / "attack_methods.py").read_text(encoding="utf-8"))
    (methods,) = [n.value for n in of_attack.body if isinstance(n, ast.Assign) and n.targets[0].id == "METHODS"]
    assert {"one_word", *ast.literal_eval(methods)} == set(attack_options.METHODS)
