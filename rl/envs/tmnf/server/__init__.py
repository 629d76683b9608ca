"""The simulator behind the game's protocol: what the plugin and the game are to a client."""
