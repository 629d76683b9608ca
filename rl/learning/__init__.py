"""The learner: a batch of transitions in, better weights out."""
