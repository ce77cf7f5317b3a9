"""Asking a model and keeping its answers."""
