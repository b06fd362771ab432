"""How foreign text is shown: on one line, cut, and where it is markdown, as nothing but itself."""

from __future__ import annotations
