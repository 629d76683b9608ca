"""A report of runs: one HTML file with curves, tables and a viewer of driven runs."""
