"""Feature files and class text of any layout to a store."""
