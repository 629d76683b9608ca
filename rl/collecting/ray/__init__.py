"""Collectors in Ray actors, on this machine and others."""
