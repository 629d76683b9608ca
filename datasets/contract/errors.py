"""The one exception that stands for a mistake of the user."""


class UserError(Exception):
    """A mistake that the user can mend: one readable line saying what is wrong and what to do.

    The command line prints it without a traceback and exits with code 2.
    """
