"""The data sets. Their files land in this folder too, ignored by git."""


class InputError(ValueError):
    """A mistake of the user's: the message is one line that names the file or flag and says what to do."""
