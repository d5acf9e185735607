"""What a handler raises to say more than "it failed"."""

__all__ = ["ToolError"]


class ToolError(Exception):
    """The tool could not do what it was asked for; the model reads the text and may try again.

    Anything else that a handler raises stays inside: the caller learns only that it failed.

    Args:
        message: public text: what, where, and what would have been right.
    """

    def __init__(self, message: str) -> None:
        # People hand over the exception they caught; on the wire it must be text.
        self.message = message if type(message) is str else str(message)
        super().__init__(self.message)
