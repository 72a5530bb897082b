"""Text as terminals and front ends show it: colours stay, what moves, writes elsewhere or names itself a link goes."""

import re

#: More coloured spans than that, and the text is shown without colours: each becomes an element in the browser.
_MAX_COLOURS = 50_000
_COLOUR = re.compile(r"\x1b\[[\d;:]{0,60}m")
_SEQUENCE = re.compile(
    # Colours and styles (SGR) are kept; so are tabs, line ends and what progress bars write: \b and \r.
    r"(?P<colour>\x1b\[[\d;:]{0,60}m)"
    # Strings, up to their end, if it is near: titles, hyperlinks (OSC 8), the clipboard (OSC 52), device control.
    r"|(?P<string>(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])(?:[^\x00-\x1f\x7f-\x9f]{0,2000}(?:\x07|\x1b\\|\x9c))?)"
    r"|(?:\x1b\[|\x9b)[0-?]{0,60}[ -/]{0,10}[@-~]?"
    r"|\x1b[ -/]{0,10}[0-~]?"
    r"|[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f]"
)
_ANY = re.compile(r"[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def safe_text(text: str) -> str:
    """:return: the text with its colours, and without any other control sequence; the same for such a text."""
    if not _ANY.search(text):
        return text
    text = _SEQUENCE.sub(lambda match: match["colour"] or "", text)
    return _COLOUR.sub("", text) if text.count("\x1b") > _MAX_COLOURS else text


def plain_text(text: str, most: int) -> str:
    """:return: the text without any control character but line ends and tabs, and no longer than ``most``."""
    return _ANY.sub("", _COLOUR.sub("", safe_text(text[: 4 * most])))[:most]
