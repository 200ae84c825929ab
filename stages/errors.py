"""What a person is told when a stage cannot go on."""


class UserError(Exception):
    """A fault in the input, the parameters or the machine, told as one sentence.

    The message has the form *where: expected X, got Y; what to do*.
    """
