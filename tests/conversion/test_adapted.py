"""A loaded model with an adapter equals the folder that the conversion writes with it, bit for bit."""

import numpy as np
import pytest

from tests.conversion.hf_checkpoints import make_llama, make_llava, save
from tests.conversion.test_peft import CASES, adapted
from vlm_mu_jax.conversion.adapted import check, with_adapter
from vlm_mu_jax.conversion.convert import ConvertOptions, convert
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.params import flatten
from vlm_mu_jax.storage import model_folder

MERGED = ["rslora", "tied_embedding", "modules_to_save", "some_layers", "vision_and_projector"]


def loaded(source, out, **options):
    convert(source, out, ConvertOptions(template="plain", **options))
    return model_folder.load(out, with_processor=False)


@pytest.mark.parametrize("name", MERGED)
def test_the_weights_are_those_of_the_conversion(name, tmp_path):
    make, fixed, options = CASES[name]
    base = save(make(0, **fixed), tmp_path / "base")
    adapted(make(0, **fixed), 1, **options).save_pretrained(tmp_path / "adapter")
    plain = loaded(base, tmp_path / "plain")
    wanted = flatten(loaded(base, tmp_path / "merged", lora=tmp_path / "adapter").params)
    before, after = flatten(plain.params), flatten(with_adapter(plain, tmp_path / "adapter").params)
    assert after.keys() == wanted.keys()
    for path, leaf in after.items():
        assert leaf.dtype == wanted[path].dtype and leaf.sharding == before[path].sharding
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(wanted[path]), err_msg=path)
    shared = [path for path in after if after[path] is before[path]]
    assert shared and len(shared) < len(after), "what the adapter leaves alone is not copied, and all else changes"


def test_what_is_no_adapter_of_the_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="lost: holds no LoRA adapter"):
        check(tmp_path / "lost")
    base = save(make_llama(0), tmp_path / "base")
    adapted(make_llava(0), 1, target_modules="all-linear").save_pretrained(tmp_path / "adapter")
    with pytest.raises(InputError, match="adapter: does not fit the model: .*belongs to no tensor"):
        with_adapter(loaded(base, tmp_path / "plain"), tmp_path / "adapter")
