"""Measuring a model: ask it, judge its answers, count.

evaluate.py    `vlm_mu_jax.evaluate`: one evaluation from questions to `results.json`
judging.py     `vlm_mu_jax.judge`: labels for answers that are there already
questions/     what is asked: suites of questions, public data sets
answers/       asking a model, and the file that keeps its answers
judges/        who says whether an answer answers or refuses, and how far to trust it
metrics.py     attack success, refusal, irrelevance, utility
statistics.py  intervals and paired tests
utility/       the official scorers of public utility sets
results/       from judged answers to the numbers, tests and tables of a run
defences/      defences that change what a model is asked, and what they achieve
curation/      the forget and retain sets of an unlearning run
perplexity.py  how fluent answers are to a language model
workdir.py, provenance.py   the folder of an evaluation, and what its results were made from
"""
