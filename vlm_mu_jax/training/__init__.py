"""How a model learns.

train, unlearn, relearning   what a user calls: from a config, from records in memory, as an attack
sweep, recipes               many trainings: a grid of settings, the recipes that are compared
settings, config_files       the config: every key with its default, files by name
sources, feed                the data: files to token rows, rows to batches on the devices
spec, prepare, loop          one run: what it is, what comes before the first step, the steps
step, model_policy           one update: losses, gradients over micro-batches, optimizer
robust, latent               gradients that make forgetting hold when weights or activations move
trainable, optimizer, duals  what trains, how it is updated, and the objective's own variables
reference, features          what is computed once before training
evaluation                   evaluation while training, and evaluation_questions, what it asks
checkpoint, export, adapter  what stays on disk
metrics, goodput, flops      what is measured: losses, where the time goes, MFU
"""
