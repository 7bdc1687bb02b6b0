"""Errors whose message is meant for the user; scripts print it without a traceback."""


class UserError(Exception):
    """Something the user can mend. The message says what, where, and how."""
