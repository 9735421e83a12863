"""Clips to features: decoding, frames, the mel front end, encoders, recipes."""
