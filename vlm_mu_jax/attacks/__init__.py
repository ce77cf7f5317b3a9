"""How safety data are audited, and how a model is attacked.

- `attack.py`, `options.py`: the function `vlm_mu_jax.attack`, what it is told. `questions.py`: which questions it uses.
- `method.py`: a method proposes attempts and their control. `measure.py` gets real answers, judges them and compares
  both by McNemar's exact test. `tables.py` prints the results.
- `audit/`: which words of safety data predict refusal; rebalancing; whether a model has learned them; saliency.
- `words/`: the one-word attack: candidates, the exhaustive search, null words (in `one_word.py`).
- `methods/`: every other attack. Suffixes (GCG, random search) and PGD are searched; the others are made of the
  question alone: `images.py`, and prefills and paraphrases in `texts.py`.
- `margin/`: what all searches share: refusal openings, the margin, prefix caches, guards, places and resumable files.
"""
