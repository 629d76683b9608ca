"""The commands of rulka-pipeline: arguments, and one call each."""
