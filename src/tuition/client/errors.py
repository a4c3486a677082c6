"""Errors of the client. Their messages are whole sentences for the person who asked."""

from tuition.core.errors import TuitionError


class ClientError(TuitionError):
    """A call of the server's API failed, or a reply broke off."""

    def __init__(self, message: str, code: str | None = None) -> None:
        self.code = code
        """The server's own name of the error, if it gave one."""
        super().__init__(message)


def sentence(message: str) -> str:
    """The message with a capital letter and a full stop."""
    message = message.strip() or "something went wrong"
    return message[0].upper() + message[1:] + ("" if message.endswith((".", "!", "?")) else ".")
