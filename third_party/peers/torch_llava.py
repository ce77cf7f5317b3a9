"""The peer of bin/bench: PyTorch transformers' LLaVA, driven by JSON lines on stdin, answering in JSON lines on stdout.

    {"do": "make", "folder", "text": {...}, "vision": {...}, "seed"}   writes a random checkpoint
    {"do": "load", "folder", "arrays": NPZ}                            the model and the inputs of a suite
    {"do": "generate", "prefix", "tokens", "rows"}                     greedy answers, `rows` prompts at a time
    {"do": "npo" | "rmu", ...}                                         one training step
    {"do": "peak"}                                                     the most memory this process ever had, bytes

Every job answers {"seconds", ...}. The training steps do what OPTML-Group/VLM-Safety-Unlearn@1f89239
llava/train/llava_unlearn_full_trainer.py does, with the choices of a competent user of transformers: fused AdamW, SDPA
attention, no key/value cache. The original model is a frozen second copy that runs a forward in every step, the
vision tower runs in every forward, cross-entropy is Hugging Face's own over the whole sequence, and RMU reads its layer
from a hook in a full forward (the source also computes the cross-entropy there and throws it away; this does not).
Runs alone: it imports nothing of vlm_mu_jax.
"""

import copy
import json
import sys
import time

import numpy as np
import torch
import transformers
from torch.nn import functional as F

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Peer:
    """Holds the model, the inputs, and the state of training between jobs."""

    def make(self, folder: str, text: dict, vision: dict, seed: int) -> dict:
        torch.manual_seed(seed)
        config = transformers.LlavaConfig(
            text_config=transformers.LlamaConfig(**text),
            vision_config=transformers.CLIPVisionConfig(**vision),
            image_token_index=text["vocab_size"] - 1,
        )
        model = transformers.LlavaForConditionalGeneration(config)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:  # transformers starts too small for the greedy choice to be clear
                    weight.normal_(std=weight[0].numel() ** -0.5)
        model.save_pretrained(folder)
        return {}

    def load(self, folder: str, arrays: str) -> dict:
        model = transformers.LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self.model = model.to(DEVICE).eval()
        self.arrays = {name: torch.from_numpy(value).to(DEVICE) for name, value in np.load(arrays).items()}
        self.original, self.optimizer = None, None
        return {"versions": {"torch": torch.__version__, "transformers": transformers.__version__}, "device": DEVICE}

    def generate(self, prefix: str, tokens: int, rows: int) -> dict:
        """Greedy, without an end token, `rows` prompts at a time."""
        self.model.generation_config.eos_token_id = None
        parts = [torch.split(self.arrays[f"{prefix}_{name}"], rows) for name in ("tokens", "lengths", "pixels")]
        return {"tokens": [row for part in zip(*parts, strict=True) for row in self._generate(*part, tokens)]}

    def _generate(self, rows: torch.Tensor, lengths: torch.Tensor, pixels: torch.Tensor, tokens: int) -> list:
        """Prompts are moved to the right edge, as transformers wants them."""
        width = rows.shape[1]
        ids = torch.stack([row.roll(width - int(n)) for row, n in zip(rows, lengths, strict=True)])
        mask = (torch.arange(width, device=DEVICE)[None] >= width - lengths[:, None]).long()
        with torch.no_grad():
            made = self.model.generate(
                input_ids=ids.long(),
                attention_mask=mask,
                pixel_values=_pixels(pixels),
                do_sample=False,
                max_new_tokens=tokens,
                pad_token_id=0,
                suppress_tokens=[self.model.config.image_token_id],  # the placeholder is no text
            )
        return made[:, width:].tolist()

    def npo(self, beta: float, learning_rate: float, checkpointing: bool = False) -> dict:
        """One ratio per batch on forget data, cross-entropy on retain data: finetune_unlearn.sh of the source."""
        self._prepare(lambda name: "vision_tower" not in name, learning_rate, checkpointing)
        current = self._cross_entropy(self.model, "forget")
        with torch.no_grad():
            reference = self._cross_entropy(self.original, "forget")
        forget = -(2 / beta) * F.logsigmoid(beta * (current - reference))
        return self._step(forget + self._cross_entropy(self.model, "retain"))

    def rmu(self, layer: int, trained: list[int], alpha: float, learning_rate: float) -> dict:
        """Means over batch, position and width, padding included, as the source has it."""
        wanted = tuple(f"language_model.layers.{i}.mlp.down_proj.weight" for i in trained)
        self._prepare(lambda name: name.endswith(wanted), learning_rate)
        hidden = self._hidden(self.model, "forget", layer)
        forget = F.mse_loss(hidden, self.arrays["control"].expand_as(hidden))
        with torch.no_grad():
            reference = self._hidden(self.original, "retain", layer)
        return self._step(forget + alpha * F.mse_loss(self._hidden(self.model, "retain", layer), reference))

    def peak(self) -> dict:
        """What Linux counts for this process alone; ru_maxrss would include the parent that started it."""
        with open("/proc/self/status") as status:
            return {"bytes": next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))}

    def _prepare(self, trains, learning_rate: float, checkpointing: bool = False) -> None:
        if self.optimizer is None:
            self.original = copy.deepcopy(self.model).requires_grad_(False)
            for name, weight in self.model.named_parameters():
                weight.requires_grad_(trains(name))
            if checkpointing:
                self.model.train()  # transformers checkpoints in training mode only; this model has no dropout
                self.model.gradient_checkpointing_enable({"use_reentrant": False})
            chosen = [weight for weight in self.model.parameters() if weight.requires_grad]
            self.optimizer = torch.optim.AdamW(chosen, lr=learning_rate, weight_decay=0.0, fused=True)

    def _step(self, loss: torch.Tensor) -> dict:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return {"loss": float(loss.detach())}

    def _forward(self, model, stream: str, **more):
        rows, lengths = self.arrays[f"{stream}_tokens"].long(), self.arrays[f"{stream}_lengths"]
        mask = (torch.arange(rows.shape[1], device=DEVICE)[None] < lengths[:, None]).long()
        pixels = _pixels(self.arrays[f"{stream}_pixels"])
        return model(input_ids=rows, attention_mask=mask, pixel_values=pixels, use_cache=False, **more)

    def _cross_entropy(self, model, stream: str) -> torch.Tensor:
        """Hugging Face's loss: mean over the labelled tokens of the batch, from logits at every position."""
        labels = self.arrays[f"{stream}_tokens"].long().masked_fill(~self.arrays[f"{stream}_mask"], -100)
        return self._forward(model, stream, labels=labels).loss

    def _hidden(self, model, stream: str, layer: int) -> torch.Tensor:
        kept = []
        block = model.get_submodule(f"model.language_model.layers.{layer}")
        hook = block.register_forward_hook(lambda _, __, out: kept.append(out[0] if isinstance(out, tuple) else out))
        self._forward(model, stream)
        hook.remove()
        return kept[0]


def _pixels(images: torch.Tensor) -> torch.Tensor:
    """[B, M, H, W, C] -> [B M, C, H, W]."""
    return images.flatten(0, 1).permute(0, 3, 1, 2).contiguous()


def main(peer: Peer) -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever the libraries print must not mix with the answers
    for line in sys.stdin:
        job = json.loads(line)
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        answer = getattr(peer, job.pop("do"))(**job)
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        print(json.dumps({"seconds": time.perf_counter() - start, **answer}), file=answers, flush=True)


if __name__ == "__main__":
    main(Peer())
