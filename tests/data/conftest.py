"""A folder as Hugging Face writes it, with the miniature's tokenizer and image processor but no weights."""

import json

import pytest

from vlm_mu_jax.data.prompts import Processor
from vlm_mu_jax.miniature import checkpoint, language, world
from vlm_mu_jax.model.families import from_hf


@pytest.fixture(scope="session")
def hf_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf")
    tokenizer = language.train_tokenizer(language.all_text(world.make_world(0)))
    checkpoint.write_companions(folder, tokenizer)
    (folder / "config.json").write_text(json.dumps(checkpoint.hf_config(tokenizer)))
    return folder


@pytest.fixture(scope="session")
def hf_config(hf_folder):
    return from_hf(json.loads((hf_folder / "config.json").read_text()))


@pytest.fixture(scope="session")
def processor(hf_folder, hf_config):
    return Processor.from_folder(hf_folder, hf_config)
