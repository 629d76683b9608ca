"""The configuration of stage 3: one model of each section. Imports no torch."""
