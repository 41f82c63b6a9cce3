"""What a certificate says: whose it is, as a SPIFFE ID, and until when; and whether three files belong together."""

import re
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_rpc.tls import Tls

TRUST_DOMAIN = "nanoclaw"
_SPIFFE = re.compile(rf"spiffe://{TRUST_DOMAIN}/(service|operator)/([a-z0-9][a-z0-9_.-]{{0,63}})")


@dataclass(frozen=True, slots=True)
class Material:
    """The three files of a Tls folder, as PEM, which were found to belong together. until: its end."""

    ca: bytes
    certificate: bytes
    key: bytes
    until: datetime


def spiffe_id(principal: str) -> str:
    """`spiffe://nanoclaw/service/broker` of `service:broker`."""
    kind, _, name = principal.partition(":")
    return f"spiffe://{TRUST_DOMAIN}/{kind}/{name}"


def principal_of(certificate: x509.Certificate) -> str:
    """The principal that the certificate names, empty where it names none, or more than one."""
    found = [name.value for name in _names(certificate) if isinstance(name, x509.UniformResourceIdentifier)]
    match = _SPIFFE.fullmatch(found[0]) if len(found) == 1 else None
    return f"{match[1]}:{match[2]}" if match else ""


def hosts_of(certificate: x509.Certificate) -> list[x509.DNSName | x509.IPAddress]:
    """The host names and addresses that the certificate is good for."""
    return [name for name in _names(certificate) if isinstance(name, x509.DNSName | x509.IPAddress)]


def _names(certificate: x509.Certificate) -> list[x509.GeneralName]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return []


def read(tls: Tls) -> Material:
    """The files of a folder. Raises CERTIFICATE_UNREADABLE, and CERTIFICATE_OF_ANOTHER where they name another."""
    try:
        material = tls.ca.read_bytes(), tls.certificate.read_bytes(), tls.key.read_bytes()
        authorities = x509.load_pem_x509_certificates(material[0])
        certificate = x509.load_pem_x509_certificates(material[1])[0]
        key = load_pem_private_key(material[2], None)
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(tls, str(error)) from None
    if key.public_key() != certificate.public_key():
        raise _unreadable(tls, "tls.key is not the key of tls.crt")
    assert authorities, "a bundle without a certificate is a ValueError"
    named = principal_of(certificate)
    if named != tls.principal:
        raise NanoclawError(
            Kind.INVALID,
            "CERTIFICATE_OF_ANOTHER",
            f"{tls.certificate} is the certificate of {named or 'nobody'}, not of {tls.principal}",
            next_step=f"name the folder of {tls.principal}'s own certificate; see `nanoclaw certs show`",
        )
    return Material(*material, until=certificate.not_valid_after_utc)


def _unreadable(tls: Tls, why: str) -> NanoclawError:
    return NanoclawError(
        Kind.INVALID,
        "CERTIFICATE_UNREADABLE",
        f"the certificate of {tls.principal} in {tls.folder} cannot be used: {why}",
        next_step="make it with `nanoclaw certs init` or `nanoclaw certs operator`, or name its folder",
    )
