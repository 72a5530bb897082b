"""Names that a guest gave its files: which may come out, which only on demand, and how they are shown."""

import unicodedata

#: Bytes of a name and of a path that Linux takes.
_MAX_NAME, _MAX_PATH = 255, 4000
#: Made again by their tools, and not worth a look.
_MADE_AGAIN = frozenset({"__pycache__", "node_modules"})
#: Letters that look like others, beside those that Unicode itself calls compatible: Cyrillic and Greek ones.
_ALIKE = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u04bb\u0501\u051b\u051d\u043a\u043c"
    "\u0442\u0432\u043d\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u0406"
    "\u0408\u0405\u03b1\u03bf\u03c1\u03b9\u03c5\u03bd\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c"
    "\u039d\u039f\u03a1\u03a4\u03a5\u03a7",
    "aeopcyxijshdqwkmtbhABEKMHOPCTYXIJSaopiuvABEZHIKMNOPTYX",
)


def find_fault(path: str) -> str:
    """Why nothing of this name may ever come out, for people; empty where it may.

    :param path: relative, with "/" between its parts.
    """
    parts = path.split("/")
    # SECURITY: the one rule for all paths that lead to a file of the host: they stay below the folder.
    if not path or path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        return "its name leads elsewhere"
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if max(sizes) > _MAX_NAME or sum(sizes) + len(sizes) > _MAX_PATH:
        return "its name is too long"
    # SECURITY: control characters act on terminals, and marks of direction turn names round (CVE-2021-42574).
    if not path.isprintable():
        return "its name has characters that cannot be seen"
    return ""


def is_retired(path: str, named: str = "") -> bool:
    """Whether a path is applied only when it is named: something hidden, or made again by tools.

    :param named: what was named: the path itself, or a folder above it.
    """
    parts, known = path.split("/"), len(named.split("/")) if named else 0
    # SECURITY: hidden files are run or read by others unasked: .bashrc, .git/hooks, .jupyter, .vscode.
    return any(part.startswith(".") or part in _MADE_AGAIN for part in parts[known:])


def shown(path: str) -> str:
    """A path for people: what cannot be seen, or passes for something else, is written as an escape."""
    return "".join(_show(word) for word in _words(path))


def skeleton(path: str) -> str:
    """What a path looks like, or is on a file system that takes capitals for small letters: equal for two that may be
    mistaken for one another."""
    return unicodedata.normalize("NFKC", path.translate(_ALIKE)).casefold()


def _words(text: str) -> list[str]:
    """The text in pieces: runs of letters, and single characters."""
    words: list[str] = []
    for char in text:
        if char.isalpha() and words and words[-1][-1].isalpha():
            words[-1] += char
        else:
            words.append(char)
    return words


def _show(word: str) -> str:
    poses = not word.isascii() and skeleton(word).isascii()
    return "".join(_escape(char) if not char.isprintable() or (poses and not char.isascii()) else char for char in word)


def _escape(char: str) -> str:
    number = ord(char)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
