"""The project's own files tell the truth: dependencies, pins, file lengths, links in the guides."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

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
    optional = [line for name in ("data", "judge") for line in extras.get(name, [])]
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


def test_no_source_file_holds_two_ideas():
    """A file past about 400 lines usually does."""
    long = {str(path.relative_to(ROOT)) for path in (ROOT / "vlm_mu_jax").rglob("*.py") if lines(path) > 420}
    assert not long


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("guide", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda path: path.name)
def test_links_and_commands_in_the_guides_exist(guide):
    text = guide.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        assert "://" in target or (guide.parent / target).exists(), f"{guide.name} links to {target}"
    for command in set(re.findall(r"\bbin/(\w+)", text)):
        assert (ROOT / "bin" / command).exists(), f"{guide.name} names bin/{command}"
    for config in set(re.findall(r"\bconfigs/(\w+\.py)", text)):
        assert (ROOT / "configs" / config).exists(), f"{guide.name} names configs/{config}"


def defined_flags(source: Path) -> set[str]:
    """Flags of a command and of the modules of cli/ that it takes flags from (cluster and the like)."""
    text = source.read_text()
    names = re.findall(r"^from vlm_mu_jax\.cli import (.+)$", text, flags=re.MULTILINE)
    beside = [source.with_name(f"{name.strip()}.py") for line in names for name in line.split(",")]
    texts = [text, *(path.read_text() for path in beside if path.exists())]
    return {flag for text in texts for flag in re.findall(r'DEFINE_\w+\(\s*"(\w+)"', text)}


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
