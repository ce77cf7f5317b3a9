"""Audits, attacks, unlearns and guards LLaVA-class vision-language models, in JAX.

    import vlm_mu_jax
    model = vlm_mu_jax.load("runs/base")            # Model(params, config, processor, folder)
    vlm_mu_jax.forward(model.params, batch, model.config)
    vlm_mu_jax.generate(model.params, batch, model.config, max_new_tokens=64)

Names are imported on first use, so that commands which need no JAX start without it.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "convert": "vlm_mu_jax.conversion.convert",
    "ConvertOptions": "vlm_mu_jax.conversion.convert",
    "export": "vlm_mu_jax.conversion.exporter",
    "ExportOptions": "vlm_mu_jax.conversion.exporter",
    "build_miniature": "vlm_mu_jax.miniature.checkpoint",
    "load": "vlm_mu_jax.storage.model_folder",
    "Model": "vlm_mu_jax.storage.model_folder",
    "forward": "vlm_mu_jax.model.vlm",
    "Batch": "vlm_mu_jax.model.vlm",
    "generate": "vlm_mu_jax.model.generate",
    "FlaxModel": "vlm_mu_jax.model.flax_model",
    "audit": "vlm_mu_jax.attacks.audit.audit",
    "AuditOptions": "vlm_mu_jax.attacks.audit.audit",
    "AuditResult": "vlm_mu_jax.attacks.audit.audit",
    "rebalance": "vlm_mu_jax.attacks.audit.rebalance",
    "record_saliency": "vlm_mu_jax.attacks.audit.saliency",
    "attack": "vlm_mu_jax.attacks.attack",
    "AttackOptions": "vlm_mu_jax.attacks.options",
    "AttackRecords": "vlm_mu_jax.attacks.questions",
    "AttackResult": "vlm_mu_jax.attacks.attack",
    "WordOptions": "vlm_mu_jax.attacks.words.one_word",
    "SuffixOptions": "vlm_mu_jax.attacks.methods.suffix_prompts",
    "PixelOptions": "vlm_mu_jax.attacks.methods.pgd",
    "Anchors": "vlm_mu_jax.steering.anchor_texts",
    "extract_guard": "vlm_mu_jax.steering.extraction",
    "ExtractOptions": "vlm_mu_jax.steering.extraction",
    "Guard": "vlm_mu_jax.steering.guard",
    "load_guard": "vlm_mu_jax.steering.guard",
    "GuardOptions": "vlm_mu_jax.steering.guard_options",
    "bake_guard": "vlm_mu_jax.steering.bake",
    "export_guard": "vlm_mu_jax.steering.export",
    "select_guard": "vlm_mu_jax.evaluation.guards.select_guard",
    "SelectOptions": "vlm_mu_jax.evaluation.guards.select_guard",
    "apply_guard": "vlm_mu_jax.evaluation.guards.apply_guard",
    "ApplyOptions": "vlm_mu_jax.evaluation.guards.apply_guard",
    "diagnose_guard": "vlm_mu_jax.evaluation.guards.diagnose_guard",
    "DiagnoseOptions": "vlm_mu_jax.evaluation.guards.diagnose_guard",
    "report": "vlm_mu_jax.reporting",
    "ReportOptions": "vlm_mu_jax.reporting",
    "evaluate": "vlm_mu_jax.evaluation.evaluate",
    "EvaluateOptions": "vlm_mu_jax.evaluation.evaluate",
    "Evaluation": "vlm_mu_jax.evaluation.results.summary",
    "depth": "vlm_mu_jax.evaluation.depth",
    "Depth": "vlm_mu_jax.evaluation.depth",
    "holds": "vlm_mu_jax.stress.holds",
    "HoldsOptions": "vlm_mu_jax.stress.options",
    "HoldsResult": "vlm_mu_jax.stress.holds",
    "judge": "vlm_mu_jax.evaluation.judging",
    "JudgeOptions": "vlm_mu_jax.evaluation.judges",
    "compare_defences": "vlm_mu_jax.evaluation.defences.comparison",
    "DefendedModels": "vlm_mu_jax.evaluation.defences.comparison",
    "DefenceOptions": "vlm_mu_jax.evaluation.defences.comparison",
    "curate": "vlm_mu_jax.evaluation.curation.curate",
    "CurateOptions": "vlm_mu_jax.evaluation.curation.curate",
    "train": "vlm_mu_jax.training.train",
    "Trained": "vlm_mu_jax.training.train",
    "unlearn": "vlm_mu_jax.training.unlearn",
    "UnlearnOptions": "vlm_mu_jax.training.unlearn",
    "relearn": "vlm_mu_jax.training.relearning",
    "RelearnOptions": "vlm_mu_jax.training.relearning",
    "RelearnResult": "vlm_mu_jax.training.relearning",
    "QuestionOptions": "vlm_mu_jax.training.evaluation_questions",
    "answer": "vlm_mu_jax.evaluation.answers.one_answer",
    "Chat": "vlm_mu_jax.evaluation.answers.chat",
    "InputError": "vlm_mu_jax.errors",
    "JobError": "vlm_mu_jax.errors",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
