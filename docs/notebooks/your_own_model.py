# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Your own model
#
# From a Hugging Face checkpoint to an answer, a measurement and a report, and back to Hugging Face.
#
# `SOURCE` is a hub id such as `llava-hf/llava-1.5-7b-hf`, or a folder. Here it is the miniature's checkpoint, and the
# data are the miniature's, in VLGuard's format.

# %%
import vlm_mu_jax

# %% tags=["parameters"]
SOURCE = "runs/quickstart/mini/hf"
DATA = "runs/quickstart/mini/data"
OUT = "runs/notebook"
QUESTIONS = 32
NEW_TOKENS = 32

# %% [markdown]
# The conversion needs no PyTorch. It writes a model folder that every function and command reads.

# %%
vlm_mu_jax.convert(SOURCE, f"{OUT}/base")
model = vlm_mu_jax.load(f"{OUT}/base")

# %%
from vlm_mu_jax.data import readers  # noqa: E402

records = readers.read(f"{DATA}/test.json")
first = records[0]
print(first.question)
print(vlm_mu_jax.answer(model, first.question, [records.image_path(first)], max_new_tokens=NEW_TOKENS).text)

# %% [markdown]
# With `workdir` every answer is kept as it comes, so that a killed run goes on. The report reads such folders.

# %%
how = vlm_mu_jax.EvaluateOptions("mine", "base", max_questions=QUESTIONS, max_new_tokens=NEW_TOKENS)
measured = vlm_mu_jax.evaluate(model, DATA, how, workdir=f"{OUT}/eval_base")
print(measured.metric("asr_before"))
vlm_mu_jax.report([f"{OUT}/eval_base"], f"{OUT}/report.html")

# %%
vlm_mu_jax.export(f"{OUT}/base", f"{OUT}/hf")
