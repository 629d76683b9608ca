"""What passes between the stages: artifacts, their injection, calibration."""
