"""The peer of bin/bench weights: a text model of PyTorch transformers.

    {"do": "load", "folder", "arrays": NPZ, "dtype"}       a Hugging Face folder; "dtype" is a name of PyTorch's
    {"do": "generate", "rows", "tokens"}                   greedy answers of the first `rows` prompts, as one batch
    {"do": "npo_lora", "beta", "learning_rate", "rank"}    one training step of a peft adapter on every linear map
    {"do": "prefix_cache", "words", "batch"}               as in attack_scoring.py, without an image
    {"do": "peak"}                                         as in torch_llava.py

The reference of NPO is the model with its adapter switched off, in every step.
"""

import numpy as np
import torch
import transformers
from attack_scoring import Scorer
from torch.nn import functional as F
from torch_llava import DEVICE, main


class TextPeer(Scorer):
    """Arrays: `{name}_tokens` [B, T] right-padded and `{name}_lengths` [B] of the streams prompt, forget and retain;
    `{name}_mask` [B, T] of the last two; and those of `Scorer` but the pixels."""

    def load(self, folder: str, arrays: str, dtype: str = "float32") -> dict:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        self.model = model.to(DEVICE).eval()
        self.arrays = {name: torch.from_numpy(value).to(DEVICE) for name, value in np.load(arrays).items()}
        self.optimizer = None
        return {"versions": {"torch": torch.__version__, "transformers": transformers.__version__}, "device": DEVICE}

    @property
    def decoder(self) -> torch.nn.Module:
        return self.model.model

    def _positions(self, first: int, end: int) -> dict:
        return {}

    def _prefix_embeddings(self) -> torch.Tensor:
        return self.model.get_input_embeddings()(self.arrays["prefix"].long()[None])

    def generate(self, rows: int, tokens: int) -> dict:
        """Prompts are moved to the right edge; no end token."""
        lengths = self.arrays["prompt_lengths"][:rows]
        ids = self.arrays["prompt_tokens"][:rows, : int(lengths.max())].long()
        width = ids.shape[1]
        ids = torch.stack([row.roll(width - int(n)) for row, n in zip(ids, lengths, strict=True)])
        mask = (torch.arange(width, device=DEVICE)[None] >= width - lengths[:, None]).long()
        self.model.generation_config.eos_token_id = None
        with torch.no_grad():
            made = self.model.generate(
                input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=tokens, pad_token_id=0
            )
        return {"tokens": made[:, width:].tolist()}

    def npo_lora(self, beta: float, learning_rate: float, rank: int) -> dict:
        if self.optimizer is None:
            import peft

            adapter = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear", task_type="CAUSAL_LM")
            self.model = peft.get_peft_model(self.model, adapter)
            chosen = [weight for weight in self.model.parameters() if weight.requires_grad]
            self.optimizer = torch.optim.AdamW(chosen, lr=learning_rate, weight_decay=0.0, fused=True)
        current = self._cross_entropy(self.model, "forget")
        with torch.no_grad(), self.model.disable_adapter():
            reference = self._cross_entropy(self.model, "forget")
        forget = -(2 / beta) * F.logsigmoid(beta * (current - reference))
        return self._step(forget + self._cross_entropy(self.model, "retain"))

    def _forward(self, model, stream: str, **more):
        rows, lengths = self.arrays[f"{stream}_tokens"].long(), self.arrays[f"{stream}_lengths"]
        mask = (torch.arange(rows.shape[1], device=DEVICE)[None] < lengths[:, None]).long()
        return model(input_ids=rows, attention_mask=mask, use_cache=False, **more)


if __name__ == "__main__":
    main(TextPeer())
