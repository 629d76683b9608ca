"""What every package shares: actions, float layout, reference lines, configuration, errors."""
