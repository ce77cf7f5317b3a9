"""GGUF files: exactly the weights, the config and the tokenizer that they were made from, or one clear line."""

import random

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

import vlm_mu_jax
from tests.conversion.gguf_checkpoints import CHAT, SIZES, add, byte_level_vocabulary, permuted, save_gguf, their_name
from tests.conversion.hf_checkpoints import LLAMA3_ROPE, draw_text, make_llama, randomise, save
from vlm_mu_jax.conversion import gguf_file, gguf_kinds
from vlm_mu_jax.conversion.convert import ConvertOptions, convert
from vlm_mu_jax.conversion.exporter import export
from vlm_mu_jax.conversion.gguf_tokenizer import write_tokenizer
from vlm_mu_jax.conversion.importer import import_checkpoint
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.params import flatten
from vlm_mu_jax.model.vlm import Batch, forward

SPECIAL = {"bos_token_id": 1, "eos_token_id": 2}


@pytest.fixture(scope="module")
def llama():
    return make_llama(41, **SIZES, **SPECIAL)


@pytest.fixture(scope="module")
def file(llama, tmp_path_factory):
    return save_gguf(llama, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def leaves(source, **options):
    return flatten(import_checkpoint(source, ConvertOptions(**options)).params)


def same(got, want):
    assert got.keys() == want.keys()
    for path in want:
        np.testing.assert_array_equal(np.asarray(got[path], np.float32), np.asarray(want[path], np.float32), path)


def make(arch, tied=False, **fixed):
    """A tiny model of an architecture, and what its GGUF file says besides."""
    drawn = draw_text(45, **SIZES | SPECIAL | {"tie_word_embeddings": tied} | fixed)
    if arch == "llama":
        return randomise(transformers.LlamaForCausalLM(transformers.LlamaConfig(**drawn)), 45), {}
    if arch == "qwen2":
        return randomise(transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**drawn)), 45), {}
    if arch == "qwen3":
        return randomise(transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**drawn)), 45), {}
    rope = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    }
    own = {"num_hidden_layers": 7, "rope_parameters": rope, "sliding_window": 8, "query_pre_attn_scalar": 16}
    model = randomise(transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**drawn | own | fixed)), 45)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if (
                "norm" in name
            ):  # scales are 1 + w here; so few bits, as bfloat16 ones have, survive the way there and back
                weight.copy_(torch.round((weight - 1) * 1024) / 1024)
    said = {"gemma3__rope__scaling__type": "linear", "gemma3__rope__scaling__factor": 8.0}
    return model, said | {"gemma3__attention__sliding_window": 8}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("arch", ["qwen2", "qwen3", "gemma3"])
def test_other_architectures_are_the_checkpoint_they_were_made_from(arch, tied, tmp_path):
    model, said = make(arch, tied)
    ours = import_checkpoint(save_gguf(model, tmp_path / "x.gguf", arch=arch, **said))
    theirs = import_checkpoint(save(model, tmp_path / "hf"))
    same(flatten(ours.params), flatten(theirs.params))
    assert ours.config == theirs.config


@pytest.mark.parametrize("arch", ["qwen2", "qwen3", "gemma3"])
def test_other_architectures_compute_what_transformers_computes(arch, tmp_path):
    model, said = make(arch)
    done = import_checkpoint(save_gguf(model, tmp_path / "x.gguf", arch=arch, **said))
    ids = np.random.default_rng(0).integers(3, 264, (1, 20), np.int32)
    with torch.no_grad():
        want = model(torch.tensor(ids)).logits.numpy()
    params = jax.tree.map(jnp.asarray, done.params)
    got = forward(params, Batch(ids, np.array([20], np.int32)), done.config)
    np.testing.assert_allclose(got.logits_BTV, want, atol=1e-4)


def test_other_architectures_are_written_and_exported_for_transformers(tmp_path):
    model, said = make("gemma3", tied=True)
    file = save_gguf(model, tmp_path / "x.gguf", arch="gemma3", **said)
    assert convert(file, tmp_path / "ours").dialect == "gemma3_text"
    back = transformers.AutoModelForCausalLM.from_pretrained(export(tmp_path / "ours", tmp_path / "back").folder)
    for key, weight in model.state_dict().items():
        assert torch.equal(weight, back.state_dict()[key]), key
    assert back.config.layer_types == model.config.layer_types
    assert back.config.rope_parameters == model.config.rope_parameters


def test_the_scale_of_gemmas_queries_goes_by_the_number_of_layers(tmp_path):
    for layers, wanted in ((7, 16), (62, 64 // 2)):
        model, said = make("gemma3", num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=1)
        config, files = gguf_kinds.read(
            gguf_file.GgufFile(save_gguf(model, tmp_path / f"{layers}.gguf", arch="gemma3", **said))
        )
        assert (config["query_pre_attn_scalar"], files.problems) == (wanted, [])


def test_gemma_without_a_window_reads_every_layer_whole(tmp_path):
    model, said = make("gemma3")
    said |= {"gemma3__attention__sliding_window": 0}
    text = import_checkpoint(save_gguf(model, tmp_path / "x.gguf", arch="gemma3", **said)).config.text
    assert (text.sliding_window, text.windowed, text.rope_theta) == (None, (), 1e6)


@pytest.mark.parametrize("tied", [False, True])
def test_float32_is_the_checkpoint_it_was_made_from(tied, tmp_path):
    model = make_llama(42, **SIZES, **SPECIAL, tie_word_embeddings=tied)
    same(leaves(save_gguf(model, tmp_path / "x.gguf")), leaves(save(model, tmp_path / "hf")))


def test_the_model_computes_what_transformers_computes(llama, file):
    done = import_checkpoint(file)
    ids = np.array([[1, 30, 40, 5, 60, 7]], np.int32)
    with torch.no_grad():
        want = llama(torch.tensor(ids)).logits.numpy()
    params = jax.tree.map(jnp.asarray, done.params)
    got = forward(params, Batch(ids, np.array([6], np.int32)), done.config)
    np.testing.assert_allclose(got.logits_BTV, want, atol=2e-5)


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_half_precision_stays_as_it_is_stored(kind, llama, tmp_path):
    got = leaves(save_gguf(llama, tmp_path / "x.gguf", kind))
    dtype = {"F16": "float16", "BF16": "bfloat16"}[kind]
    assert {str(leaf.dtype) for path, leaf in got.items() if "norm" not in path} == {dtype}
    same(got, leaves(save(make_llama(41, **SIZES, **SPECIAL), tmp_path / "hf"), dtype=dtype) | _norms(got))


def _norms(found):
    return {path: leaf for path, leaf in found.items() if "norm" in path}


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_quantised_weights_are_what_the_library_makes_of_them(kind, llama, tmp_path):
    got = leaves(save_gguf(llama, tmp_path / "x.gguf", kind))["decoder/layers/wk_LDKH"][1]
    stored = llama.state_dict()["model.layers.1.self_attn.k_proj.weight"].numpy()
    type_ = gguf.GGMLQuantizationType[kind]
    rounded = gguf.quants.dequantize(gguf.quants.quantize(permuted(stored, 2), type_), type_)
    want = gguf_kinds.unpermuted(2)(rounded)
    np.testing.assert_array_equal(got, want.T.reshape(64, 2, 16))
    np.testing.assert_allclose(got, stored.T.reshape(64, 2, 16), atol=0.1)


def test_a_folder_is_written_and_exported_for_transformers(file, llama, tmp_path):
    done = convert(file, tmp_path / "ours")
    assert (done.template, done.dialect, done.has_tokenizer, done.dtype) == ("own", "text", True, "float32")
    model = vlm_mu_jax.load(tmp_path / "ours")
    assert model.processor.tokenizer.chat_template == CHAT and model.config.eos_ids == (2,)
    from transformers import AutoModelForCausalLM

    back = AutoModelForCausalLM.from_pretrained(export(tmp_path / "ours", tmp_path / "back").folder)
    for key, weight in llama.state_dict().items():
        assert torch.equal(weight, back.state_dict()[key]), key


def test_a_command_reads_it_and_provenance_names_the_file(file, root, tmp_path):
    import hashlib
    import subprocess

    from vlm_mu_jax.files.json_file import read_json

    done = subprocess.run(
        [root / "bin" / "convert_hf", f"--source={file}", f"--out={tmp_path / 'm'}"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert read_json(tmp_path / "m" / "provenance.json")["sha256"] == {"tiny.gguf": digest}


def test_text_is_tokenised_as_transformers_reads_the_same_file(file, tmp_path):
    from transformers import AutoTokenizer

    write_tokenizer(gguf_file.GgufFile(file), tmp_path)
    ours = AutoTokenizer.from_pretrained(tmp_path)
    theirs = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    for text in ("the thin man", "  an <|im_end|> in the\n\n", "ümläut 你好 🙂", "<|im_start|>user\nthe", ""):
        assert ours(text)["input_ids"] == theirs(text)["input_ids"], text
        assert ours.decode(ours(text)["input_ids"]) == text
    assert (ours.bos_token, ours.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert ours("the 12")["input_ids"][-2:] == ours.convert_tokens_to_ids(["1", "2"])  # SmolLM2 cuts digits apart


def test_qwens_text_is_tokenised_as_its_own_tokenizer_does(tmp_path):
    model, said = make("qwen2")
    file = gguf_file.GgufFile(save_gguf(model, tmp_path / "x.gguf", arch="qwen2", tokenizer__ggml__pre="qwen2"))
    write_tokenizer(file, tmp_path)
    ours = transformers.AutoTokenizer.from_pretrained(tmp_path)
    tokens, merges = byte_level_vocabulary(264)
    vocab = {token: at for at, token in enumerate(tokens)}
    pairs = [tuple(pair.split()) for pair in merges]
    theirs = transformers.Qwen2Tokenizer(vocab=vocab, merges=pairs)
    for text in ("the thin man's  12", "  in\n\n the", "u\u0308mla\u0308ut 你好 🙂"):
        assert ours(text)["input_ids"] == theirs(text)["input_ids"], text
    assert ours.decode(ours("u\u0308")["input_ids"]) == "ü"


def sentencepiece_vocabulary(**options):
    """A tiny trained vocabulary."""
    import io

    import sentencepiece

    lines = ["the man in the thin coat ran and ran", "a coat of the man", "thin thing and nothing in the rain"] * 20
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=trained,
        vocab_size=310,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())


def test_sentencepiece_vocabularies(tmp_path):
    """Ids of SentencePiece itself, whose vocabulary and scores a GGUF file holds."""
    theirs = sentencepiece_vocabulary()
    size = theirs.vocab_size()
    kinds = [
        2 if theirs.is_unknown(i) else 3 if theirs.is_control(i) else 6 if theirs.is_byte(i) else 1 for i in range(size)
    ]
    model = make_llama(43, **{**SIZES, "vocab_size": size})
    file = save_gguf(
        model,
        tmp_path / "x.gguf",
        drop=("tokenizer.ggml.pre", "tokenizer.ggml.merges"),
        tokenizer__ggml__model="llama",
        tokenizer__ggml__tokens=[theirs.id_to_piece(i) for i in range(size)],
        tokenizer__ggml__scores=[theirs.get_score(i) for i in range(size)],
        tokenizer__ggml__token_type=kinds,
        tokenizer__ggml__unknown_token_id=0,
    )
    convert(file, tmp_path / "ours", ConvertOptions(template="plain"))
    ours = vlm_mu_jax.load(tmp_path / "ours").processor.tokenizer
    for text in ("the man ran", "a nothing", "ümläut 🙂", "thin  thing", "rain\nin"):
        assert ours(text)["input_ids"] == [1, *theirs.encode(text)], text
        assert ours.decode(ours(text)["input_ids"], skip_special_tokens=True) == text


def test_gemmas_vocabularies(tmp_path):
    """No space before a text, and tokens that are whole wherever they stand; llama.cpp writes their spaces plainly."""
    own = ["\n", "\n\n", "\u2581\u2581", "\u2581\u2581\u2581", "<b>"]
    theirs = sentencepiece_vocabulary(
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        user_defined_symbols=own,
        control_symbols=["<end_of_turn>"],
        add_dummy_prefix=False,
    )
    size = theirs.vocab_size()
    pieces = [theirs.id_to_piece(i) for i in range(size)]
    kinds = [3 if theirs.is_control(i) or i == 3 else 6 if theirs.is_byte(i) else 1 for i in range(size)]
    scores = [theirs.get_score(i) for i in range(size)]
    for i, piece in enumerate(pieces):
        if piece in own:
            pieces[i], kinds[i], scores[i] = piece.replace("\u2581", " "), 4, -1000.0
    model, said = make("gemma3", vocab_size=size)
    file = save_gguf(
        model,
        tmp_path / "x.gguf",
        arch="gemma3",
        drop=("tokenizer.ggml.merges", "tokenizer.chat_template"),
        tokenizer__ggml__model="llama",
        tokenizer__ggml__pre="default",
        tokenizer__ggml__tokens=pieces,
        tokenizer__ggml__scores=scores,
        tokenizer__ggml__token_type=kinds,
        tokenizer__ggml__bos_token_id=2,
        tokenizer__ggml__eos_token_id=1,
        tokenizer__ggml__unknown_token_id=3,
        tokenizer__ggml__padding_token_id=0,
        tokenizer__ggml__add_space_prefix=False,
        **said,
    )
    assert convert(file, tmp_path / "ours").template == "plain"
    loaded = vlm_mu_jax.load(tmp_path / "ours")
    assert loaded.config.eos_ids == (1, pieces.index("<end_of_turn>"))
    ours = loaded.processor.tokenizer
    for text in ("the man ran", " a nothing", "thin  thing   in", "<b>the\n\n\nman", "ümläut 🙂"):
        assert ours(text)["input_ids"] == [2, *theirs.encode(text)], text
        assert ours.decode(ours(text)["input_ids"], skip_special_tokens=True) == text


def test_the_end_of_a_turn_ends_an_answer(llama, tmp_path):
    from vlm_mu_jax.files.json_file import read_json

    file = save_gguf(llama, tmp_path / "x.gguf", tokenizer__ggml__eot_token_id=0)
    write_tokenizer(gguf_file.GgufFile(file), tmp_path)
    assert read_json(tmp_path / "generation_config.json")["eos_token_id"] == [2, 0]


def test_the_rope_of_llama_3_is_recognised(tmp_path):
    model = make_llama(44, **SIZES, max_position_embeddings=131072)
    for factor in (8.0, 32.0):
        factors = gguf_kinds.llama3_factors(10000.0, 16, factor, 1.0, 4.0, 8192).astype(np.float32)
        model.config.rope_parameters = {"rope_type": "default", "rope_theta": 10000.0}
        file = save_gguf(model, tmp_path / f"{factor}.gguf", extra={"rope_freqs.weight": factors})
        scaling = import_checkpoint(file).config.text.rope_scaling
        assert (scaling.kind, scaling.factor, scaling.original_max_positions) == ("llama3", factor, 8192)
    file = save_gguf(model, tmp_path / "other.gguf", extra={"rope_freqs.weight": factors * 1.1})
    with pytest.raises(InputError, match=r"rope_freqs\.weight is that of no released Llama 3"):
        import_checkpoint(file)


def test_rope_factors_are_those_of_transformers():
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = LLAMA3_ROPE | {"original_max_position_embeddings": 8192}
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, head_dim=16, rope_parameters=rope)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, None)
    plain = 500000.0 ** -(np.arange(0, 16, 2) / 16)
    want = plain / scaled.numpy()
    np.testing.assert_allclose(gguf_kinds.llama3_factors(500000.0, 16, 8.0, 1.0, 4.0, 8192), want, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"arch": "mamba"}, "architecture 'mamba' is not supported; only llama"),
        ({"llama__expert_count": 8}, "a mixture of 8 experts"),
        ({"llama__rope__scaling__type": "yarn"}, "rope scaling 'yarn'"),
        ({"llama__rope__dimension_count": 8}, "differs from the head size|shape"),
        ({"llama__attention__key_length": 8}, "differs from the head size"),
        ({"llama__block_count": 10**9}, "make no sense"),
        ({"llama__block_count": 0}, "make no sense"),
        ({"llama__context_length": "long"}, "context_length is 'long'"),
        ({"drop": ("llama.embedding_length",)}, "embedding_length is missing"),
        ({"tokenizer__ggml__pre": "unheard-of"}, "how 'unheard-of' cuts text"),
        ({"tokenizer__ggml__model": "rwkv"}, "tokenizer kind 'rwkv'"),
        ({"tokenizer__ggml__eos_token_id": 10**6}, "eos_token_id is 1000000"),
        ({"tokenizer__ggml__tokens": ["a", "b", "c", "a"]}, "occur twice"),
        ({"tokenizer__ggml__merges": ["no where"]}, "merges that do not fit"),
        ({"drop": ("tokenizer.ggml.tokens",)}, "tokens is missing"),
        ({"extra": {"blk.0.ssm_a": np.ones(3, np.float32)}}, "blk.0.ssm_a is not used"),
        ({"extra": {"blk.2.attn_norm.weight": np.ones(64, np.float32)}}, "blk.2.attn_norm.weight is not used"),
    ],
)
def test_what_we_cannot_read_is_named(changes, what, llama, tmp_path):
    file = save_gguf(llama, tmp_path / "x.gguf", **changes)
    with pytest.raises(InputError, match=what):
        convert(file, tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"gemma3__final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
        ({"gemma3__attention__sliding_window_pattern": 0}, "sliding_window_pattern is 0"),
        ({"drop": ("gemma3.attention.key_length",)}, "shape"),
    ],
)
def test_what_we_cannot_read_of_a_gemma_is_named(changes, what, tmp_path):
    model, said = make("gemma3", head_dim=32)
    file = save_gguf(model, tmp_path / "x.gguf", arch="gemma3", **said | changes)
    with pytest.raises(InputError, match=what):
        convert(file, tmp_path / "ours")


def test_a_missing_tensor_is_named(llama, tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    reader = gguf.GGUFReader(save_gguf(llama, tmp_path / "whole.gguf"))
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            add(writer, name, field.contents())
    for tensor in reader.tensors:
        if tensor.name != their_name("model.layers.1.mlp.up_proj.weight"):
            writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match=r"model\.layers\.1\.mlp\.up_proj\.weight is missing"):
        import_checkpoint(tmp_path / "x.gguf")


def test_damaged_files_are_one_line(file, tmp_path):
    """Cut anywhere, or with bytes changed in the header: an error or the model, nothing else and in no time."""
    whole, rng, path = file.read_bytes(), random.Random(0), tmp_path / "x.gguf"
    header = gguf.GGUFReader(file).data_offset
    refused = 0
    for trial in range(120):
        data = bytearray(whole)
        if trial < 30:
            data = data[: rng.randrange(len(data))]
        else:
            for _ in range(rng.choice([1, 1, 4])):
                data[rng.randrange(4, header)] = rng.choice([0, 1, 9, 127, 128, 255])
        path.write_bytes(data)
        try:
            import_checkpoint(path)
        except InputError as error:
            assert "Traceback" not in str(error)
            refused += 1
    assert refused > 60
