"""The peer of bin/bench: a model of PyTorch transformers. JSON lines on stdin ask, JSON lines on stdout answer.

    {"do": "make", "folder", "text": {...}, "vision": {...}, "seed", "family"}   writes a random checkpoint
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
import re
import sys
import time

import numpy as np
import torch
import transformers
from torch.nn import functional as F

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOWER = re.compile(r"vision_tower|visual\.(?!merger)")  # names of weights


def llava(text: dict, vision: dict) -> torch.nn.Module:
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**text),
        vision_config=transformers.CLIPVisionConfig(**vision),
        image_token_index=text["vocab_size"] - 1,
    )
    return transformers.LlavaForConditionalGeneration(config)


def qwen25_vl(text: dict, vision: dict) -> torch.nn.Module:
    """The same sizes; a window has four by four image tokens, and the last layer of the tower reads whole pictures."""
    head, depth = text["hidden_size"] // text["num_attention_heads"], vision["num_hidden_layers"]
    rows = head // 2 * 3 // 8
    rope = {"rope_type": "default", "mrope_section": [head // 2 - 2 * rows, rows, rows]}
    ends = {"bos_token_id": 1, "eos_token_id": 2}  # its own defaults lie beyond smaller vocabularies
    config = transformers.Qwen2_5_VLConfig(
        text_config={**text, **ends, "num_key_value_heads": text["num_attention_heads"], "rope_scaling": rope},
        vision_config={
            "depth": depth,
            "hidden_size": vision["hidden_size"],
            "intermediate_size": vision["intermediate_size"],
            "num_heads": vision["num_attention_heads"],
            "patch_size": vision["patch_size"],
            "window_size": 8 * vision["patch_size"],
            "fullatt_block_indexes": [depth - 1],
            "out_hidden_size": text["hidden_size"],
        },
        image_token_id=text["vocab_size"] - 1,
        video_token_id=text["vocab_size"] - 2,
        tie_word_embeddings=False,
        **ends,
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


FAMILIES = {"llava": llava, "qwen2.5-vl": qwen25_vl}


class Peer:
    """Holds the model, the inputs, and the state of training between jobs."""

    def make(self, folder: str, text: dict, vision: dict, seed: int, family: str = "llava") -> dict:
        torch.manual_seed(seed)
        model = FAMILIES[family](text, vision)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:  # transformers starts too small for the greedy choice to be clear
                    weight.normal_(std=weight[0].numel() ** -0.5)
        model.save_pretrained(folder)
        return {}

    def load(self, folder: str, arrays: str) -> dict:
        model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
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
                **self.inputs(ids.long(), mask, pixels),
                do_sample=False,
                max_new_tokens=tokens,
                pad_token_id=0,
                suppress_tokens=[self.model.config.image_token_id],  # the placeholder is no text
            )
        return made[:, width:].tolist()

    def npo(self, beta: float, learning_rate: float, checkpointing: bool = False) -> dict:
        """One ratio per batch on forget data, cross-entropy on retain data: finetune_unlearn.sh of the source."""
        self._prepare(lambda name: not TOWER.search(name), learning_rate, checkpointing)
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

    def inputs(self, ids: torch.Tensor, mask: torch.Tensor, pixels: torch.Tensor) -> dict:
        """What the model takes for these rows, one image [H, W, 3] each."""
        inputs = {"input_ids": ids, "attention_mask": mask, **self.images(pixels)}
        if "image_grid_thw" in inputs:
            inputs["mm_token_type_ids"] = (ids == self.model.config.image_token_id).int()
        return inputs

    def images(self, pixels: torch.Tensor) -> dict:
        """[B, M, H, W, C] as the model takes them: pictures, or the patches of all of them and their grids."""
        images, vision = _pixels(pixels), self.model.config.vision_config
        if self.model.config.model_type != "qwen2_5_vl":
            return {"pixel_values": images}
        n, channels, height, width = images.shape
        p, m, frames = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
        blocks = images.reshape(n, channels, height // p // m, m, p, width // p // m, m, p)
        blocks = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7)[:, :, :, :, :, :, None]  # as Qwen2VLImageProcessor has them
        cut = blocks.expand(-1, -1, -1, -1, -1, -1, frames, -1, -1).reshape(n * (height // p) * (width // p), -1)
        grid = torch.tensor([[1, height // p, width // p]] * n, device=DEVICE)
        return {"pixel_values": cut, "image_grid_thw": grid}

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
        inputs = self.inputs(rows, mask, self.arrays[f"{stream}_pixels"])
        if "image_grid_thw" in inputs:  # padding has no positions there, and RMU reads it
            kind, grid = inputs["mm_token_type_ids"], inputs["image_grid_thw"]
            inputs["position_ids"], _ = self.model.model.get_rope_index(rows, kind, image_grid_thw=grid)
        return model(**inputs, use_cache=False, **more)

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
