"""Layers and masks that the methods share."""
