"""Plans a run for chips that are not here: the real program, compiled ahead of time.

  jobs           what is planned: a training step, generation, or a block of the attack's word search
  training_step  the training step of a config as shapes with shardings
  topology       the chips of a machine that is not here
  compilation    the compiled program's memory and work, and the roofline of its time
  hlo            reads products, traffic and collectives from a compiled program's text
  plan           puts these together, and advises when a job does not fit
  text           prints a plan

Nothing runs and no array exists. FLOPs are analytic. Times are lower bounds.
"""
