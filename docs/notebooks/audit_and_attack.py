# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Audit and attack
#
# Which words of the safety data predict refusal? And which single word makes the model answer what it refuses, or
# refuse what it should answer?
#
# The files are those of a finished `bin/quickstart`. For a model of your own put its folder and your data in their
# place.

# %%
import vlm_mu_jax
from vlm_mu_jax.data import readers

# %% tags=["parameters"]
RUNS = "runs/quickstart"
WORDS = "audit"  # "english:20000" tries the most frequent words, "pieces" all that the tokenizer has
QUESTIONS = 32
NEW_TOKENS = 32

# %% [markdown]
# The audit needs no model. Look at the probe first: how well the opening word alone predicts a refusal.

# %%
records = readers.read(f"{RUNS}/mini/data/train.json")
audited = vlm_mu_jax.audit(records)
print(audited.probe)
print("go with answers: ", [row["word"] for row in audited.jailbreak_candidates[:5]])
print("go with refusals:", [row["word"] for row in audited.over_refuse_candidates[:5]])

# %% [markdown]
# The attack asks the safety-tuned model itself about every candidate word, on validation questions. The best words are
# then measured with real answers on test questions that the search never saw, beside null words.

# %%
model = vlm_mu_jax.load(f"{RUNS}/sft")
options = vlm_mu_jax.AttackOptions(
    search_questions=QUESTIONS,
    verify_questions=QUESTIONS,
    max_new_tokens=NEW_TOKENS,
    words=vlm_mu_jax.WordOptions(candidates=WORDS),
)
found = vlm_mu_jax.attack(model, f"{RUNS}/mini/data", options)
print(found.table())

# %% [markdown]
# The same call tries other attacks. A prefill begins the answer for the model; random words are its control.

# %%
prefilled = vlm_mu_jax.attack(
    model,
    f"{RUNS}/mini/data",
    vlm_mu_jax.AttackOptions(
        method="prefill", goals=("jailbreak",), verify_questions=QUESTIONS, max_new_tokens=NEW_TOKENS
    ),
)
print(prefilled.table())
