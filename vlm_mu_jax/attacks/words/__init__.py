"""The one-word attack: candidates, the exhaustive search, null words as its control, scores in float32."""
