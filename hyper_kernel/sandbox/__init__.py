"""One sandbox's life, from parts."""
