"""Commands of the link to the game."""
