"""TeX that MathJax renders: the commands that make links, attributes, styles and macros lose their backslash's meaning.

MathJax looks for formulas in all text of HTML too. Its Safe extension filters what these commands make, but not every
front end has it, and macros live on in the page for the formulas of others.
"""

import re

#: SECURITY: macros are among them, so that no name can be given to a command that is on this list.
_ACTIVE = re.compile(
    r"""\\(?=(?:href|url|class|cssId|style|data|unicode|Unicode|mmlToken|bbox|require|csname|endcsname
    |includegraphics|begingroup|endgroup|gdef|xdef|edef|def|let|futurelet|global|long
    |newcommand|renewcommand|providecommand|newenvironment|renewenvironment|newtagform|renewtagform|usetagform
    |DeclareMathOperator|DeclarePairedDelimiters?X?(?:pp)?|Newextarrow|rule|Rule|Space|raise|lower|hspace|vspace|kern
    |mkern|hskip|mskip|mspace|moveleft|moveright|llap|rlap|smash|texttip|toggle|mathtip|label|tag|ref|eqref|enclose
    |htmlId|htmlClass|htmlStyle|htmlData|write|input|special)(?![A-Za-z]))""",
    re.VERBOSE,
)


def without_active(text: str) -> tuple[str, int]:
    r""":return: the text with ``\href`` as ``\ href`` (in TeX a space and letters), and how many there were."""
    return _ACTIVE.subn(r"\\ ", text)
