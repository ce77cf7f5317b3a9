"""What survives deployment: a model's rates as is, under attacks, in fewer bits, pruned, fine-tuned."""
