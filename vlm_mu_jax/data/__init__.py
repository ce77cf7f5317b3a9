"""What the system reads: records, images, prompts and batches."""
