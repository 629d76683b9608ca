"""Replay memory: each picture once, n-step transitions and mini-races made when sampled."""
