"""The embedded default: a tiny complete LLaVA, trained from scratch on a world of nonsense words and drawn signs."""
