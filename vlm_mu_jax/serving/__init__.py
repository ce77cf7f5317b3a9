"""How are models offered? An OpenAI-compatible server whose rows join and leave the running batch between steps."""
