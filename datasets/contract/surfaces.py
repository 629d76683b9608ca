"""Contact groups of a wheel; each of the four owns one flag of the float vector."""

from typing import Final

ASPHALT: Final = 0
GRASS: Final = 1
DIRT: Final = 2
TURBO: Final = 3
N_SURFACES: Final = 4
SURFACE_NAMES: Final = ("asphalt", "grass", "dirt", "turbo")
