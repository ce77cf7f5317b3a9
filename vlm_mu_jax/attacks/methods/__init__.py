"""Every other attack: suffixes (GCG, random search), images (PGD, blank, noise, typographic), prefills, paraphrases."""
