"""The JSON files that commands exchange: each format is declared once, and checked when a file is read."""
