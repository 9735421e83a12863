"""From files to fixed-shape batches."""
