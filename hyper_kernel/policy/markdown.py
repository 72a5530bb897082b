"""Markdown as HTML, so that one rule holds for both.

Front ends take formulas out of Markdown before they read it and put them back into the HTML that comes out, also into
attributes; names of languages end up in attributes as they are. There is no way to write Markdown that is surely safe.
"""

import html

import mistune

from hyper_kernel.policy.html import safe_html
from hyper_kernel.policy.removed import Removed

#: Longer Markdown is shown as it is written. It takes 2 ms for 1000 characters, and four times that at worst.
MAX_MARKDOWN = 50_000

#: HTML and links come through as they are: what cleans them notes them.
_RENDERER = mistune.HTMLRenderer(escape=False, allow_harmful_protocols=True)
_RENDER = mistune.create_markdown(renderer=_RENDERER, plugins=["table", "strikethrough", "url", "math"])


def safe_markdown(text: str, removed: Removed) -> str:
    """:return: clean HTML that shows the Markdown."""
    if len(text) > MAX_MARKDOWN:
        return f"<pre>{html.escape(text, quote=False)}</pre>"
    return safe_html(str(_RENDER(text)), removed)
