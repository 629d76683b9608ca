"""Training of stage 3: set-up, the loop, and the calibration before it."""
