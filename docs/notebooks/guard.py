# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Guard
#
# An image loosens refusals that the language model would give. Take the direction that tells harmful from harmless
# *text* in the language tower, and steer along it while the model answers.
#
# The files are those of a finished `bin/quickstart`.

# %%
import vlm_mu_jax
from vlm_mu_jax.data import readers
from vlm_mu_jax.evaluation.judges import get

# %% tags=["parameters"]
RUNS = "runs/quickstart"
OUT = "runs/notebook_guard"
STRENGTHS = (0.5, 1.0, 2.0)
QUESTIONS = 48
NEW_TOKENS = 32

# %%
model = vlm_mu_jax.load(f"{RUNS}/base")
guard = vlm_mu_jax.extract_guard(model, f"{RUNS}/mini/data/anchors.json")
print("AUROC per layer, in sample:", guard.origin["auroc_anchors"])

# %% [markdown]
# Which strength? Validation requests decide, by the answers that the guarded model really gives.

# %%
requests = readers.read(f"{RUNS}/mini/data/text_harm_validation.json")
judge = get("oracle", f"{RUNS}/mini/data")
options = vlm_mu_jax.SelectOptions(
    strengths=STRENGTHS, validation_share=1.0, max_questions=QUESTIONS, max_new_tokens=NEW_TOKENS
)
chosen = vlm_mu_jax.select_guard(model, guard, requests, judge, options)
print(chosen.table())
chosen.save(OUT)

# %% [markdown]
# The alignment gap without and with the guard: hazardous requests as text, with a blank image, and with their own one.

# %%
how = vlm_mu_jax.EvaluateOptions(max_questions=QUESTIONS, max_new_tokens=NEW_TOKENS)
plain = vlm_mu_jax.evaluate(model, f"{RUNS}/mini/data", how)
guarded = vlm_mu_jax.evaluate(model, f"{RUNS}/mini/data", how, guard=OUT, baseline=plain)
for run in (plain, guarded):
    print({place: rates["asr"] for place, rates in run.metrics["gap"].items()})
