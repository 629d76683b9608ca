"""Stage 2: behavioural cloning, from frames to the actions of the drivers."""
