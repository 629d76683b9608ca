"""Times of races, and limits of values from outside, that every package shares."""

from typing import Final

MAX_RACE_MS: Final = 300_000
"""ms of race time after which a run is cut off, unless it is configured otherwise."""
DNF_MS: Final = 300_000
"""ms that stand for the race time of a run that did not finish, in results and statistics."""
LARGEST_SEED: Final = 2**32 - 1
"""What every generator of random numbers takes."""
LONGEST_RECORD_MS: Final = 24 * 3_600_000
"""ms beyond which no time of a race can be meant: a day."""
