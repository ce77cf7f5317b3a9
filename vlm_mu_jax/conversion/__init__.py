"""Where weights come from and go to: Hugging Face safetensors folders."""
