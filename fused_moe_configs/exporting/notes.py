"""What an export has to say besides what it wrote."""

from __future__ import annotations


class Notes:
    """Lines for people, each once, and whether one of them is a loss: something that was asked for and is not there."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.is_loss = False

    def say(self, *lines: str) -> None:
        """What is good to know: what the engine never reads, what it reads otherwise."""
        self.lines += (line for line in lines if line not in self.lines)

    def lose(self, *lines: str) -> None:
        """What the engine or the caller asks for and this export doesn't hold."""
        self.is_loss |= bool(lines)
        self.say(*lines)
