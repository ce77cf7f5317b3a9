"""The wheel is whole: installed outside a checkout, it answers, finds its configs, and imports in a moment."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vlm_mu_jax.cli import main

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with the wheel's contents as pip lays them out."""
    folder = tmp_path_factory.mktemp("wheel")
    source = (
        folder / "source"
    )  # a copy, because setuptools builds in the tree and packs what it finds there from before
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("vlm_mu_jax", "configs", "third_party/published"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    built = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run(built, check=True, capture_output=True, text=True)
    wheel = next(folder.glob("*.whl"))
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


def run(site: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(site)}  # before the checkout, which an editable installation also finds
    return subprocess.run([sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True, check=False)


def test_the_installed_package_is_the_wheels(site, tmp_path):
    found = run(site, tmp_path, "-c", "import vlm_mu_jax; print(vlm_mu_jax.__file__)").stdout.strip()
    assert Path(found).is_relative_to(site)


def test_the_console_command_lists_every_command(site, tmp_path):
    done = run(site, tmp_path, str(site / "bin" / "vlm-mu"), "--help")
    assert done.returncode == 0, done.stderr
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert listed == set(main.COMMANDS)
    scripts = {path.name for path in (ROOT / "bin").iterdir()} - {"_python", "test", "check_harness"}
    assert scripts == set(main.COMMANDS)


@pytest.mark.parametrize("name", ["attack", "report"])
def test_a_command_calls_itself_as_it_was_called(name, site, tmp_path):
    done = run(site, tmp_path, str(site / "bin" / "vlm-mu"), name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"vlm-mu {name} " in done.stdout and "bin/" not in done.stdout


def test_a_wrong_command_is_one_line_with_the_near_miss(site, tmp_path):
    done = run(site, tmp_path, str(site / "bin" / "vlm-mu"), "atack")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: there is no command 'atack'; did you mean attack?\n"


@pytest.mark.parametrize("pattern", ["reporting/**/*.html", "evaluation/**/prompts/*", "steering/*.py.txt"])
def test_what_the_package_reads_is_in_the_wheel(pattern, site):
    in_checkout = {p.relative_to(ROOT / "vlm_mu_jax") for p in (ROOT / "vlm_mu_jax").glob(pattern)}
    in_wheel = {p.relative_to(site / "vlm_mu_jax") for p in (site / "vlm_mu_jax").glob(pattern)}
    assert in_checkout and in_checkout == in_wheel


def test_the_papers_tables_are_in_the_wheel(site):
    assert {p.name for p in (site / "share" / "vlm_mu_jax" / "published").glob("*.csv")} == {
        p.name for p in (ROOT / "third_party" / "published").glob("*.csv")
    }


def test_the_shipped_configs_are_found_by_name(site, tmp_path):
    in_wheel = {path.name for path in (site / "vlm_mu_jax" / "configs").glob("*.py")}
    assert in_wheel == {path.name for path in (ROOT / "configs").glob("*.py")}
    vlm_mu = str(site / "bin" / "vlm-mu")
    done = run(site, tmp_path, vlm_mu, "train", "--config=llava15_unlearn:7b_npo", "--workdir=run")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: runs/llava: no such folder")  # the config was read: this is its model.init
