"""Parameters of calls that may be sent, looked for or undone later: encrypted, and gone when a call is settled."""

import os
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, delete, insert, select

from nanoclaw_broker import params
from nanoclaw_broker.tables import params as kept
from nanoclaw_core.canonical import canonical
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_store import Tx, prepare

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES = 12
_INSERT = prepare(insert(kept))
_FIND = prepare(select(kept.c.ciphertext).where(kept.c.call_id == bindparam("which")))
_DELETE = prepare(delete(kept).where(kept.c.call_id == bindparam("which")))


class Seal:
    """AES-256-GCM under a key derived from the broker's; a ciphertext opens for its own call only."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @cached_property
    def _cipher(self) -> "AESGCM":
        # Imported at the first use: a broker that only reads does without its 7 MB.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        return AESGCM(HKDF(SHA256(), 32, None, b"nanoclaw broker kept parameters").derive(self._key))

    def close(self, call_id: str, raw: dict[str, Any]) -> bytes:
        """The ciphertext of a call's parameters."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, canonical(raw).encode(), call_id.encode())

    def open(self, call_id: str, ciphertext: bytes) -> dict[str, Any]:
        """The parameters. Raises KEPT_PARAMS_UNREADABLE where the key is another one, or the row was tampered with."""
        from cryptography.exceptions import InvalidTag

        nonce, rest = ciphertext[:_NONCE_BYTES], ciphertext[_NONCE_BYTES:]
        try:
            return params.parse(self._cipher.decrypt(nonce, rest, call_id.encode()).decode())
        except (InvalidTag, ValueError):
            raise NanoclawError(
                Kind.PRECONDITION,
                "KEPT_PARAMS_UNREADABLE",
                f"the kept parameters of call {call_id} do not open under the broker's key",
                next_step="restore secrets/broker.key, or settle the call by hand",
            ) from None


def keep(tx: Tx, call_id: str, ciphertext: bytes) -> None:
    """Writes them, with the claim of the call."""
    tx.run(_INSERT, call_id=call_id, ciphertext=ciphertext)


def read(tx: Tx, call_id: str) -> bytes | None:
    """The ciphertext; None where nothing is kept."""
    row = tx.one(_FIND, which=call_id)
    return None if row is None else row["ciphertext"]


def forget(tx: Tx, call_id: str) -> None:
    """Removes them, if there are any: the call is settled."""
    tx.run(_DELETE, which=call_id)
