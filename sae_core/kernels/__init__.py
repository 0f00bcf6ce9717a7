"""Fast paths. Each has a plain twin of the same signature that says what it computes."""
