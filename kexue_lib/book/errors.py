"""Errors that a user of ``kexue`` can do something about; the command line prints them without a traceback."""


class BookError(Exception):
    """A wrong command, card, configuration or environment: says what was wrong, what was expected, what to do."""
