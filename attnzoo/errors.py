"""Exception for errors that a user can correct."""


class UserError(Exception):
    """Error in what a user provided: a config, a file, a locale, a checkpoint.

    The message is complete by itself: it names the file, the line or the key, says what is wrong
    and, where possible, what to do; one line per problem. Command line programs print it as
    ``error: <message>`` on standard error and exit with status 2, without a traceback. A wrong
    argument to a library function is a ``ValueError`` or ``NotImplementedError`` instead.
    """
