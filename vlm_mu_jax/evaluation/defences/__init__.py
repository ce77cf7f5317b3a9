"""Defences that change what a model is asked, and what they achieve."""
