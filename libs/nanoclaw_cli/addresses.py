"""Where the command finds the services over TCP: a host with ports one after the other, or an address for each."""

from dataclasses import dataclass, field

from nanoclaw_cli.services import SERVICES, Service
from nanoclaw_core.addresses import host_and_port, is_loopback
from nanoclaw_core.errors import NanoclawError, invalid

_LAST_FIRST_PORT = 65535 - (len(SERVICES) - 1)


@dataclass(frozen=True, slots=True)
class Addresses:
    """host: of all services that `by_name` lacks; empty: they have none. first_port: there, governance's; the others'
    follow. by_name: host:port.
    """

    host: str = ""
    first_port: int = SERVICES[0].port
    by_name: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Addresses":
        """Of `HOST`, `HOST:PORT` or `NAME=HOST:PORT`, or several with commas between. Raises INVALID_FIELD."""
        host, first_port, by_name = "", SERVICES[0].port, dict[str, str]()
        for part in (part.strip() for part in text.split(",") if part.strip()):
            name, separator, address = part.partition("=")
            if not separator and not host:
                host, first_port = _split(part, first_port)
            elif name in {service.name for service in SERVICES} and host_and_port(address):
                by_name[name] = address
            else:
                raise _wrong(f"{part!r} is neither HOST, nor HOST:PORT for all, nor NAME=HOST:PORT")
        return cls(host, first_port, by_name)

    def target(self, service: Service) -> str:
        """The gRPC target of a service. Raises INVALID_FIELD where nothing was said of it."""
        if service.name in self.by_name:
            return self.by_name[service.name]
        if not self.host:
            raise _wrong(f"it does not say where {service.name} is")
        return f"{self.host}:{service.port_from(self.first_port)}"

    def remote(self) -> list[str]:
        """The hosts that are not this machine."""
        hosts = [self.host, *(address.rpartition(":")[0] for address in self.by_name.values())]
        return [host for host in hosts if host and not is_loopback(host)]


def _split(text: str, port: int) -> tuple[str, int]:
    if text.count(":") > 1 and not text.startswith("["):
        return f"[{text}]", port  # an IPv6 address by itself
    if text.endswith("]") or ":" not in text:
        return text, port
    at = host_and_port(text)
    if at is None or at[1] > _LAST_FIRST_PORT:
        raise _wrong(f"{text!r} is no HOST:PORT with three more ports after it")
    return text.rpartition(":")[0], at[1]


def _wrong(what: str) -> NanoclawError:
    names = "|".join(service.name for service in SERVICES)
    return invalid("at", what, f"give HOST or HOST:PORT for all, or {names}=HOST:PORT, with commas between")
