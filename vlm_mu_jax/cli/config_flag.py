"""The flag --config of bin/train and bin/plan: a config file by path or by name, and --config.KEY=VALUE beside it."""

import re
import sys
from typing import Any

from absl import flags
from ml_collections import config_flags

HELP = "experiment file with get_config(), or its name: configs/miniature_unlearn.py:npo or miniature_unlearn:npo"


def define() -> flags.FlagHolder:
    """Defines --config."""
    holder = config_flags.DEFINE_config_file("config", None, HELP)
    flags.FLAGS["config"].parser = _ByName(flags.FLAGS["config"].parser)
    return holder


class _ByName(flags.ArgumentParser):
    """Finds files by name, and says which key was meant by one that does not exist."""

    def __init__(self, of_path: flags.ArgumentParser) -> None:
        self._of_path = of_path

    def flag_type(self) -> str:
        return self._of_path.flag_type()

    def parse(self, path: str) -> Any:
        from vlm_mu_jax.training import config_files, settings

        config = self._of_path.parse(config_files.find_config(path))
        for word in sys.argv[1:]:
            if changed := re.match(r"--?config\.([^=]+)", word):
                settings.check_path(changed[1], config)
        return config
