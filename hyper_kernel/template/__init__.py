"""Templates: booted, paused, saved machines that clones start from."""
