"""The error a person can mend: it says what was wrong, where, and what to do."""


class ExperimentError(Exception):
    """Something in the configuration or in what it names (model, corpus, home) cannot be used as it is."""
