"""Words of a configuration, flags, choices."""
