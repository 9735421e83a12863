"""Which clip is in which set, and which are the shots."""
