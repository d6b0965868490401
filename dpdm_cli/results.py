"""How results look where somebody looks at them: one line in a shell, and in a notebook with their picture."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path


class Result:
    """Base of what commands return. Dataclasses below it take no `__repr__` of their own."""

    @property
    def summary(self) -> str:
        """One line: what it is and says."""
        raise NotImplementedError

    def picture_png(self) -> Path | bytes | None:
        """A picture of it, as a PNG file or its content; None where there is none."""
        return None

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.summary}>"

    def _repr_html_(self) -> str:
        picture = self.picture_png()
        if isinstance(picture, Path):
            # It may have been moved since.
            picture = picture.read_bytes() if picture.is_file() else None
        if picture is None:
            return f"<p>{escape(self.summary)}</p>"
        content = base64.b64encode(picture).decode()
        return f'<p>{escape(self.summary)}</p><img src="data:image/png;base64,{content}">'
