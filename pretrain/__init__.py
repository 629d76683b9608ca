"""Stage 1 (visual) and stage 2 (behavioural cloning) of the pretraining."""
