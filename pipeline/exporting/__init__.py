"""Policies and datasets in other programs' formats."""
