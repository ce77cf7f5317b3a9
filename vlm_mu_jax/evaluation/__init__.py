"""Measuring a model: ask it, judge its answers, count.

evaluate.py    `vlm_mu_jax.evaluate`: one evaluation from questions to `results.json`
answering.py   asks a suite of questions, with a guard and a share
shards.py      one evaluation by several processes or jobs
judging.py     `vlm_mu_jax.judge`: labels for answers that are there already
questions/     what is asked: suites of questions, public data sets
answers/       asking a model, and the file that keeps its answers
judges/        who says whether an answer answers or refuses, and how far to trust it
metrics.py     attack success, refusal, irrelevance, utility
statistics.py  intervals and paired tests
guards/        extracting, choosing and applying a guard on records
utility/       the official scorers of public utility sets
results/       from judged answers to the numbers, tests and tables of a run
defences/      defences that change what a model is asked, and what they achieve
curation/      the forget and retain sets of an unlearning run
depth.py       per layer, what a probe and the logit lens still read of an answer
perplexity.py  how fluent answers are to a language model
workdir.py, provenance.py   the folder of an evaluation, and what its results were made from
"""
