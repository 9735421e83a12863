"""From a user's clips to trained classifiers, in one call."""
