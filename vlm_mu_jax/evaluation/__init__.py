"""What is measured: answers, judges, metrics and statistics."""
