"""How safety data are audited, and how a model is attacked.

- `attack.py`, `options.py`: the function `vlm_mu_jax.attack`.
- `audit/`: which words of safety data predict refusal; rebalancing; whether a model has learned them; saliency.
- `words/`: the one-word attack: candidates, the exhaustive search, null words.
- `methods/`: every other attack: GCG and random suffixes, PGD and other images, prefills, paraphrases.
- `method.py`, `measure.py`: a method proposes attempts and their control, and one measurement gets real answers, judges
  them and compares both by McNemar's exact test.
- `openings.py`, `margin.py`: the score of the searches.
- `prefix.py`, `prompt_blocks.py`, `scoring.py`: how a question's candidates share one prefix cache.
- `search_run.py`, `margins_file.py`: where searches run, and how a killed one continues.
"""
