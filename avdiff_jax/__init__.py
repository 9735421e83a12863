"""Audio-visual (generalised) few-shot learning with text-to-feature diffusion, in JAX."""

__version__ = "0.1.0"
