"""The game on this machine: folders, plugin, records, and the process that is launched."""
