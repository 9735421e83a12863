"""Files in and out: atomic writing, text, arrays, the restricted unpickler."""
