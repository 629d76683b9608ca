"""The demo: all stages on one short track, and the summary of what each stage brought."""
