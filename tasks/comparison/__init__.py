"""What tells two runs apart: their dictionaries, feature by feature, their numbers, and what they were asked for."""
