"""What passes between the stages: artifacts, their injection, part options, calibration."""
