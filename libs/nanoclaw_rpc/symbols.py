"""The descriptor pool as reflection is asked for it: finds a method by its full name too, which upb's pool does not."""

from typing import Any

from google.protobuf import descriptor_pool


class Symbols:
    """The default pool otherwise; `grpcurl describe x.v1.XService.Method` needs the difference."""

    def __init__(self) -> None:
        self._pool: Any = descriptor_pool.Default()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> Any:
        """The file that declares it. Raises KeyError."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            return self._pool.FindMethodByName(symbol).containing_service.file
