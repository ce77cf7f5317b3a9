# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Unlearn
#
# Remove the harm instead of teaching refusals: NPO on the forgotten answers, cross-entropy on the data to keep. Then
# try to bring the harm back.
#
# The files are those of a finished `bin/quickstart`. For a model of your own put its folder and your data in their
# place.

# %%
import vlm_mu_jax
from vlm_mu_jax.data import forget_retain, readers

# %% tags=["parameters"]
RUNS = "runs/quickstart"
STEPS = 60
QUESTIONS = 32
NEW_TOKENS = 32

# %% [markdown]
# The forget set is the base model's own harmful answers to unsafe requests. The retain set is answered harmless
# questions and general data.

# %%
model = vlm_mu_jax.load(f"{RUNS}/base")
safety = readers.read(f"{RUNS}/mini/data/train.json")
general = readers.read(f"{RUNS}/mini/data/llava_mix.json")
sets = forget_retain.build(safety, f"{RUNS}/forget/answers/unsafe_before.jsonl", general)
print(len(sets.forget), "to forget,", len(sets.retain), "to keep")

# %%
options = vlm_mu_jax.UnlearnOptions("npo", {"beta": 1.0, "retain_weight": 5.0}, steps=STEPS)
trained = vlm_mu_jax.unlearn(model, sets.forget, sets.retain, options)
print("loss", trained.metrics["loss"][[0, -1]])

# %% [markdown]
# What did it do? Attack success, refusals, irrelevant answers and utility stand together: a model that answers nonsense
# is not safe, it is broken. Each has n and a 95 % interval.

# %%
how = vlm_mu_jax.EvaluateOptions(max_questions=QUESTIONS, max_new_tokens=NEW_TOKENS)
before = vlm_mu_jax.evaluate(model, f"{RUNS}/mini/data", how)
after = vlm_mu_jax.evaluate(trained.model, f"{RUNS}/mini/data", how, baseline=before)
for name in ("asr_before", "rr_unsafe", "ir_unsafe_before", "harmless_right_before", "utility"):
    print(name, before.metric(name), after.metric(name), sep="\n  ")

# %% [markdown]
# Does the harm come back? An attacker who has the weights fine-tunes them on a few forgotten answers.

# %%
asked = vlm_mu_jax.QuestionOptions(f"{RUNS}/mini/data", questions=QUESTIONS, max_new_tokens=NEW_TOKENS)
attacker = vlm_mu_jax.RelearnOptions(asked, steps=STEPS, every=max(STEPS // 3, 1))
found = vlm_mu_jax.relearn(trained.model, sets.forget[:16], attacker)
for point in found.curve:
    print(point.step, point.metrics["asr"])
