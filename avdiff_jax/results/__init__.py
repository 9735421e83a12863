"""What a run leaves: numbers, tables, plots, comparisons."""
