"""Text of repositories and models, made safe to show a person: on a terminal, and (escaped besides) on a page."""

from __future__ import annotations

import re
import unicodedata

_BLANK = frozenset("\u115f\u1160\u3164\uffa0")  # letters by category that show as nothing


def shown(text: str) -> str:
    """Text in which every character shows: controls, ANSI escapes, what reorders or hides, bytes that are no UTF-8."""
    return re.sub(r"[^\n\t\x20-\x7e]", lambda found: _visible(found[0]), text)


def _visible(character: str) -> str:
    code = ord(character)
    if character == "\r":
        return "␍"  # at the end of every line of some files, where a longer name would be noise
    if 0xDC80 <= code <= 0xDCFF:
        return f"⟨byte {code - 0xDC00:02X}⟩"
    selects = 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF  # variation selectors can carry hidden text
    hides = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") or selects or character in _BLANK
    return f"⟨U+{code:04X}⟩" if hides else character
