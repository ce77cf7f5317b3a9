from PIL import Image

from vlm_mu_jax.evaluation.judges import RefusalJudge


def doc_to_visual(doc):
    return [Image.open(doc["image"]).convert("RGB")]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]


def process_results(doc, results):
    return {"refused": float(RefusalJudge()(doc["question"], results[0]).label == "refused")}
