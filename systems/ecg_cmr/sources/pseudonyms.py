"""Names for patients whose own numbers must not be passed on."""

from __future__ import annotations

import hashlib
from pathlib import Path

_LENGTH = 12


class Pseudonyms:
    """Names that only somebody who has a table can connect with its numbers: its content is the salt.

    Parameters
    ----------
    table : pathlib.Path
        File of the licensed data.
    """

    def __init__(self, table: Path) -> None:
        with table.open("rb") as file:
            self.salt = hashlib.file_digest(file, "sha256").digest()

    def name(self, kind: str, number: object) -> str:
        """Return the name of a number; kinds (a letter) have names of their own."""
        digest = hashlib.sha256(self.salt + f"{kind}:{number}".encode()).hexdigest()
        return f"{kind}{digest[:_LENGTH]}"
