"""The refusal margin, the score of every search, and what searches share: prefix caches, guards, places and files."""
