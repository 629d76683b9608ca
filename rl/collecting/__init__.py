"""Driving for the learner: collectors, exploration, and the processes they run in."""
