"""Puts configs/*.py into the package, as vlm_mu_jax/configs, so that an installed wheel finds them by name.

Everything else about the distribution stands in pyproject.toml.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """The usual build, with one more folder."""

    def run(self) -> None:
        super().run()
        folder = Path(self.build_lib) / "vlm_mu_jax" / "configs"
        if not self.editable_mode:  # an editable installation finds them in the checkout
            self.mkpath(str(folder))
            for file in sorted(Path("configs").glob("*.py")):
                self.copy_file(str(file), str(folder / file.name))


setup(cmdclass={"build_py": BuildWithConfigs})
