"""The one implicit quantile network, and the schema that describes it."""
