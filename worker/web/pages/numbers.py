"""How phone numbers are shown: masked as in the logs, or whole for those who gave the password.

A line is named in addresses as it is shown. Where several lines look alike when masked, an ordinal tells them apart.
"""

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from worker.logs import mask_phone_numbers

_BARE_NUMBER: Final = re.compile(r"\d{7,15}")
_ADDRESS: Final = re.compile(r"([^@\s]{1,2})[^@\s]*(@[^@\s]+)")


@dataclass(frozen=True)
class Numbers:
    """How numbers are shown to one reader, and how the account's lines are named."""

    are_shown: bool
    lines: Collection[str] = ()
    _names: dict[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        names: dict[str, str] = {}
        seen: Counter[str] = Counter()
        for line in sorted(self.lines):
            shown = self.text(line)
            seen[shown] += 1
            names[line] = shown if seen[shown] == 1 else f"{shown} ({seen[shown]})"
        object.__setattr__(self, "_names", names)

    def text(self, text: str | None) -> str:
        """A text, or a number, as it is shown."""
        if text is None or self.are_shown:
            return text or ""
        bare = text.strip()
        if _BARE_NUMBER.fullmatch(bare):
            return mask_phone_numbers(f"+{bare}")[1:]
        return _ADDRESS.sub(r"\1***\2", mask_phone_numbers(text))

    def line(self, number: str) -> str:
        """A line's name, which is its address too."""
        return self._names.get(number, self.text(number))

    def names(self) -> list[str]:
        """The names of all lines, in their order."""
        return sorted(self._names.values())

    def lines_named(self, name: str) -> list[str]:
        """The lines that a name stands for: the number itself, or what `line` made of it."""
        named = [line for line, its_name in self._names.items() if name in {line, its_name}]
        return named or [name]
