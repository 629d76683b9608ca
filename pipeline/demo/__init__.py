"""The demo: all stages on one short track, and the summary of the result of each stage."""
