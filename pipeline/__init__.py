"""The command line and the stages put together."""
