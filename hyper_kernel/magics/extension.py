"""What ``%load_ext hyper_kernel`` does: the magics, what the tab key offers for them, and their end."""

import atexit
from typing import Any

from IPython.core.error import TryNext

from hyper_kernel.cli.inline import complete_command_line
from hyper_kernel.errors import HyperError
from hyper_kernel.magics.magics import HyperMagics
from hyper_kernel.magics.options import complete_line

_LINE, _CELL = "%hyper", "%%hyper"


def load(shell: Any) -> None:
    """Add the magics to an IPython; again: begins anew."""
    unload(shell)
    magics = HyperMagics(shell)
    shell.register_magics(magics)
    for name in (_LINE, _CELL):
        shell.set_hook("complete_command", lambda _, event: complete(magics, event), str_key=name)
    atexit.register(magics.close)


def unload(shell: Any) -> None:
    """Take the magics away, and remove their sandboxes."""
    magics = shell.magics_manager.registry.pop(HyperMagics.__name__, None)
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("hyper", None)
    if magics:
        atexit.unregister(magics.close)
        magics.close()


def complete(magics: HyperMagics, event: Any) -> list[str]:
    """Called by IPython for a line that begins with one of the magics.

    :raise TryNext: nothing is known that fits.
    """
    text = event.text_until_cursor
    first, *words = text.split()
    if not words and not text[-1:].isspace():
        raise TryNext
    word = "" if text[-1:].isspace() else words.pop()
    known = {"images": magics.images, "sandboxes": magics.names, "variables": magics.variables}
    try:
        found = complete_line(words, word, known) if first == _CELL else complete_command_line(words, word)
    except HyperError:
        found = []
    # IPython replaces the end of the word alone, from the last character that no name has.
    known_part = len(word) - len(event.symbol)
    if not found:
        raise TryNext
    return [each[known_part:] for each in found]
