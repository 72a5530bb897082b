"""What was taken out of one message, counted, in words for people."""

import re

#: More kinds than that are not told apart: their names may be a guest's.
_MAX_KINDS = 16
_MAX_NAME = 80
#: SECURITY: a name may be a guest's, and the note that has it is shown as HTML in which formulas are rendered.
_OTHER = re.compile(r"[^\w .,:/+@-]", re.ASCII)


class Removed:
    """Counts what is taken out while one message is screened."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, kind: str, count: int = 1) -> None:
        """Count something.

        :param kind: a noun in the singular ("script"), or a name that has a slash or a dot, such as a MIME type.
        """
        kind = _OTHER.sub("?", kind[:_MAX_NAME])
        if count > 0 and (kind in self._counts or len(self._counts) < _MAX_KINDS):
            self._counts[kind] = self._counts.get(kind, 0) + count

    def update(self, other: "Removed") -> None:
        """Count what another has counted."""
        for kind, count in other._counts.items():
            self.add(kind, count)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def counts(self) -> dict[str, int]:
        """:return: how often each kind was taken out, by its name."""
        return dict(self._counts)

    def words(self) -> tuple[str, ...]:
        """:return: "1 script", "2 iframes", "application/javascript"."""
        return tuple(
            kind if "/" in kind or "." in kind else f"{count} {_plural(kind) if count > 1 else kind}"
            for kind, count in self._counts.items()
        )

    def note(self) -> str:
        """:return: one line for the person who sees the output."""
        return f"[removed for safety: {', '.join(self.words())}]"


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith("s") else "s")
