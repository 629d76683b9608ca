"""Times of a race that every package shares."""

from typing import Final

MAX_RACE_MS: Final = 300_000
"""ms of race time after which a run is cut off, unless it is configured otherwise."""
DNF_MS: Final = 300_000
"""ms that stand for the race time of a run that did not finish, in results and statistics."""
