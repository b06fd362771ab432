"""What an export has to say besides what it wrote."""

from __future__ import annotations

from fused_moe_configs.lookup import counted

MOST_NAMED = 3  # of a line


class Notes:
    """Lines for people, each once, and whether one of them is a loss: something that was asked for and is not there."""

    def __init__(self) -> None:
        self._files_of = dict[str, list[str]]()
        """By what is said, the files that it is said of; none: it is a line by itself."""
        self.is_loss = False

    @property
    def lines(self) -> list[str]:
        """In the order in which they were first said. Of many files how many there are, and of a few their names."""
        return [_subject(files) + words for words, files in self._files_of.items()]

    def say(self, *lines: str) -> None:
        """What is good to know: what the engine never reads, what it reads otherwise."""
        for line in lines:
            self._files_of.setdefault(line, [])

    def say_of(self, file: str, words: str) -> None:
        """As `say`, of a file: one line for all of which the same is said."""
        files = self._files_of.setdefault(words, [])
        if file not in files:
            files.append(file)

    def lose(self, *lines: str) -> None:
        """What the engine or the caller asks for and this export doesn't hold."""
        self.is_loss |= bool(lines)
        self.say(*lines)


def _subject(files: list[str]) -> str:
    """Names hold commas."""
    return f"{counted(len(files), 'file')}: " if len(files) > MOST_NAMED else f"{'; '.join(files)}: " if files else ""
