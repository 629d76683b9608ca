"""The racing simulator: roads, cars, drivers, pictures and floats, compiled with numba."""
