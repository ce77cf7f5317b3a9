"""The peer of bin/bench attack: PyTorch transformers scores one-word candidates, as a competent user of it would.

    {"do": "make" | "load" | "peak", ...}                   as in torch_llava.py; the arrays are those of `load` below
    {"do": "full_prompts", "words", "batch"}                batches of whole prompts
    {"do": "prefix_cache", "words", "batch"}                the prefix once, its keys and values expanded per batch

Both encode the image once (public code often does it for every row), batch prompts of equal length without padding, use
SDPA attention, and read the vocabulary at the last position only. The prefix cache is expanded without a copy, as
nanoGCG@d4a20a8 does; transformers' own concatenation with the new tokens then copies it. Every job answers with the
refusal margins of the first `words` candidates.
"""

import copy

import numpy as np
import torch
from torch_llava import DEVICE, Peer, main


class Scorer(Peer):
    """Arrays: prefix [S] ids that all prompts start with, the image's among them; tails [W, T] and tail_lengths [W],
    the rest of each; pixels [1, 1, H, W, 3]; refusal: ids of the one-token refusal openings."""

    @property
    def decoder(self) -> torch.nn.Module:
        return self.model.model.language_model

    @torch.no_grad()
    def full_prompts(self, words: int, batch: int) -> dict:
        prefix, length = self._prefix_embeddings(), len(self.arrays["prefix"])

        def score(tails: torch.Tensor) -> torch.Tensor:
            rows = self.model.get_input_embeddings()(tails)
            embeds = torch.cat([prefix.expand(len(tails), -1, -1), rows], dim=1)
            places = self._positions(0, length + tails.shape[1])
            out = self.decoder(inputs_embeds=embeds, use_cache=False, **places)
            return self.model.lm_head(out.last_hidden_state[:, -1])

        return self._margins(score, words, batch)

    @torch.no_grad()
    def prefix_cache(self, words: int, batch: int) -> dict:
        length = len(self.arrays["prefix"])
        places = self._positions(0, length)
        out = self.decoder(inputs_embeds=self._prefix_embeddings(), use_cache=True, **places)
        prefix = out.past_key_values

        def score(tails: torch.Tensor) -> torch.Tensor:
            cache = copy.copy(prefix)
            cache.layers = [copy.copy(layer) for layer in prefix.layers]
            for layer in cache.layers:
                layer.keys = layer.keys.expand(len(tails), -1, -1, -1)
                layer.values = layer.values.expand(len(tails), -1, -1, -1)
            places = self._positions(length, length + tails.shape[1])
            out = self.decoder(input_ids=tails, past_key_values=cache, use_cache=True, **places)
            return self.model.lm_head(out.last_hidden_state[:, -1])

        return self._margins(score, words, batch)

    def _positions(self, first: int, end: int) -> dict:
        """Three-axis positions of tokens first..end of a prompt, for a model that has them."""
        images = self.images(self.arrays["pixels"])
        if "image_grid_thw" not in images:
            return {}
        ids = torch.nn.functional.pad(self.arrays["prefix"].long(), (0, max(end - len(self.arrays["prefix"]), 0)))[None]
        is_image = (ids == self.model.config.image_token_id).int()
        places, _ = self.model.model.get_rope_index(ids, is_image, image_grid_thw=images["image_grid_thw"])
        return {"position_ids": places[:, :, first:end]}

    def _prefix_embeddings(self) -> torch.Tensor:
        ids = self.arrays["prefix"].long()[None]
        embeds = self.model.get_input_embeddings()(ids)
        features = self.model.model.get_image_features(**self.images(self.arrays["pixels"])).pooler_output
        is_image = (ids == self.model.config.image_token_id)[..., None]
        return embeds.masked_scatter(is_image, torch.cat(list(features)).to(embeds.dtype))

    def _margins(self, score, words: int, batch: int) -> dict:
        tails, lengths = self.arrays["tails"][:words].long(), self.arrays["tail_lengths"][:words]
        margins = torch.zeros(words)
        inside = torch.zeros(self.model.config.get_text_config().vocab_size, dtype=torch.bool, device=DEVICE)
        inside[self.arrays["refusal"].long()] = True
        for length in lengths.unique().tolist():
            for index in (lengths == length).nonzero()[:, 0].split(batch):
                logits = score(tails[index, :length]).float()
                yes = logits.masked_fill(~inside, -torch.inf).logsumexp(-1)
                no = logits.masked_fill(inside, -torch.inf).logsumexp(-1)
                margins[index] = (yes - no).cpu()
        return {"margins": np.asarray(margins).tolist()}


if __name__ == "__main__":
    main(Scorer())
