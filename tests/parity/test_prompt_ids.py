"""Prompt ids of every family equal those of its processor in transformers: 50 texts, six templates, with pictures."""

import json

import pytest

from tests.data.templates import GEMMA_3, LLAMA_3, LLAVA_HF, VICUNA
from tests.families import FAMILIES
from tests.parity.image_family import pictures
from vlm_mu_jax.data.chat_template import JinjaTemplate, of_folder
from vlm_mu_jax.data.prompts import Processor
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.families import from_hf

TEXTS = [
    *("", " ", "\n", "\t", "   three blanks in front", "three behind   ", "\nline\nline\n", "a\r\nb", "a\n\n\nb"),
    *("a  b", "what is on this sign ?", "Share the steps", "SHOUTED", "don't", "x" * 300, "word " * 200, "1234567890"),
    *("3.14e-7", "grüße aus köln", "ﬁne ligatures", "naïve café", "cafe\u0301", "русский текст", "中文字符"),
    *("日本語 テキスト", "한국어", "العربية", "עברית", "हिन्दी", "ไทย", "👍🏽", "👩‍👩‍👧 family", "🏳️‍🌈", "a\u200bb"),
    *("\ufeffmark", "a\u00a0b", "\u202eabc", "½ ∑ √ ≤", "<s>", "a</s>b", "<unk><pad>", "<|im_start|>user"),
    *("[INST] a [/INST]", "<start_of_turn>model\n", "<|vision_start|>", "<image", "<image>", "{{ bos_token }}"),
    *("\\n \\u00e9", "$x^2$ `code` **bold**"),
]
CHATML = (  # no beginning-of-text token, a system text of its own
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% for c in m.content %}"
    "{% if c.type == 'image' %}{{ '<image>\n' }}{% else %}{{ c.text }}{% endif %}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKS = {  # what a template prints for a picture, where it is not <image>
    "internvl": "<IMG_CONTEXT>",
    "gemma3": "<start_of_image>",
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), "<|vision_start|><|image_pad|><|vision_end|>"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_ids_equal_those_of_the_processor(name, tmp_path):
    assert len(TEXTS) == len(set(TEXTS)) == 50
    family, (tall, wide, small) = FAMILIES[name], pictures((20, 44), (50, 9), (9, 9))
    family.write(tmp_path)
    theirs, cfg = family.processor(tmp_path), from_hf(json.loads((tmp_path / "config.json").read_text()))
    mark, refused = MARKS.get(name, "<image>"), 0
    others = (LLAVA_HF, VICUNA, LLAMA_3, CHATML, GEMMA_3.replace("<start_of_image>", "<image>"))
    for source in (of_folder(tmp_path).source, *(one.replace("<image>", mark) for one in others)):
        ours = Processor.from_folder(tmp_path, cfg, JinjaTemplate(source))
        for i, text in enumerate(TEXTS):
            shown = {0: (small,), 6: (wide, tall)}.get(i % 12, ())
            content = [*({"type": "image", "image": one} for one in shown), {"type": "text", "text": text}]
            try:
                got = ours.prompt_ids(text, shown)
            except InputError as error:
                assert "holds the image placeholder" in str(error) and ours._renderer.mark in text
                refused += 1
                continue
            how = {"chat_template": source, "tokenize": True, "return_dict": True, "add_generation_prompt": True}
            want = theirs.apply_chat_template([{"role": "user", "content": content}], **how)["input_ids"]
            want = want[0] if isinstance(want[0], list) else want
            assert got == [int(one) for one in want], (text, source)
    assert refused in (0, 6)
