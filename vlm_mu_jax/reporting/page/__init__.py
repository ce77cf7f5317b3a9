"""The page: one template, and one module for each kind of table on it."""
