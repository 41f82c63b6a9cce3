"""How our certificates are made: what an authority's says, what a principal's says, and their PEM."""

import ipaddress
import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nanoclaw_core.errors import invalid
from nanoclaw_rpc.certificates import spiffe_id
from nanoclaw_rpc.credentials import SERVICES

_SKEW = timedelta(minutes=5)
"""Clocks differ: a certificate is good from a little before it was made."""

_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")


def host_names(service: str, further: Sequence[str]) -> list[x509.GeneralName]:
    """What a service may be dialled as: its own name, which is what our clients check; this machine; and the further.

    Raises INVALID_FIELD for what is no host, and for the name of another service.
    """
    names: list[x509.GeneralName] = [x509.DNSName(service), x509.DNSName("localhost")]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")]
    for host in further:
        try:
            name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            if not _HOST.fullmatch(host) or (host in SERVICES and host != service):
                raise invalid(
                    "host", f"{host!r} cannot be a name of {service}", "give a host name in lower case, or an address"
                ) from None
            name = x509.DNSName(host)
        if name not in names:
            names.append(name)
    return names


def authority(now: datetime, lifetime: timedelta) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A self-signed authority for certificates of principals, not for further authorities."""
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    name = _name(f"NanoClaw OS CA {now:%Y-%m-%d} {serial & 0xFFFFFFFF:08x}")  # a successor must not be mistaken for it
    built = (
        _builder(name, name, key, serial, now, now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    return built.sign(key, hashes.SHA256()), key


def certificate(
    principal: str,
    names: Sequence[x509.GeneralName],
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    now: datetime,
    lifetime: timedelta,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A principal's certificate, which ends with its authority at the latest. Only a service's may serve."""
    key = ec.generate_private_key(ec.SECP256R1())
    until = min(now + lifetime, issuer.not_valid_after_utc)
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if principal.startswith("service:"):
        purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
    identity = x509.UniformResourceIdentifier(spiffe_id(principal))
    built = (
        _builder(_name(principal), issuer.subject, key, x509.random_serial_number(), now, until)
        .add_extension(x509.SubjectAlternativeName([identity, *names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(_issuer_identifier(issuer), critical=False)
    )
    return built.sign(issuer_key, hashes.SHA256()), key


def pem(made: x509.Certificate) -> str:
    """A certificate as PEM."""
    return made.public_bytes(Encoding.PEM).decode()


def key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """A key as PEM, PKCS 8, without a passphrase: services start unattended."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    serial: int,
    now: datetime,
    until: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - _SKEW)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _issuer_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    subject = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
