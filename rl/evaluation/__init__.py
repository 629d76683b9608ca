"""Measuring policies: greedy runs, the champion, best runs, times to compare with."""
