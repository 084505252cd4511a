"""A cluster's own certificate authority, and one identity (key and certificate) for each of its services.

In one directory, for its owner's eyes only: `ca.pem`, `ca.key`, and `<service>.pem`, `<service>.key`. A certificate
says who its holder is by a URI, `legato://<cluster>/<service>`; by a DNS name made of the same, which clients check,
so that a service may run on any host; and by the hosts' own names for those who look for these: browsers and SDKs at a
gateway's door, clients of etcd and Redis. Needs the package `cryptography` (`pip install legato[certs]`).
"""

import contextlib
import ipaddress
import os
import re
import tempfile
from collections.abc import Generator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SERVICES = ("gateway", "scheduler", "kvpool", "workflow", "worker", "etcd", "redis", "operator")
"""Who gets an identity. The operator is a person or a program that looks after the cluster, as Prometheus."""
AUTHORITY_DAYS = 3650
_NAMED_BY_HOST = ("gateway", "etcd", "redis")
"""Who is called by those that check the host's name. With it in all certificates, any service could pass for these."""
_CLOCK_SKEW = timedelta(minutes=10)
_NAME = re.compile(r"[A-Za-z0-9._-]+")


class CannotIssue(Exception):
    """The directory holds what does not belong together; the message says what."""


def issue(directory: Path, cluster: str, names: Sequence[str], days: int, *, renew: bool = False) -> list[str]:
    """Make what the directory lacks; returns whose identities are new. `renew`: all of them, by the same authority.

    `names`: DNS names and IP addresses of gateways, etcd and Redis. Keys are never overwritten but by `renew`, and each
    file is replaced as a whole. Raises CannotIssue and OSError.
    """
    if not _NAME.fullmatch(cluster):
        raise CannotIssue(f"a cluster's name in certificates has letters, digits and . _ - only, not {cluster!r}")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    key, authority = _authority(directory, cluster)
    wanted = [service for service in SERVICES if renew or not _complete(directory, service)]
    for service in wanted:
        _issue_one(directory, key, authority, cluster, service, names, days)
    return wanted


def _complete(directory: Path, name: str) -> bool:
    return (directory / f"{name}.pem").exists() and (directory / f"{name}.key").exists()


def _authority(directory: Path, cluster: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """The directory's own, or a new one where it holds none."""
    if not _complete(directory, "ca"):
        strays = sorted(path.name for path in directory.iterdir() if path.suffix in (".pem", ".key"))
        if strays:
            raise CannotIssue(f"{directory} has no ca.pem and ca.key, but {', '.join(strays)}")
        key = ec.generate_private_key(ec.SECP256R1())
        name = _named(f"{cluster} certificate authority")
        builder = _builder(name, name, key, AUTHORITY_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(authority=True), critical=True)
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        certificate = builder.add_extension(identifier, critical=False).sign(key, hashes.SHA256())
        _write(directory, "ca", key, certificate)
        return key, certificate
    try:
        key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), None)
        certificate = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
    except ValueError as error:
        raise CannotIssue(f"{directory}: ca.pem or ca.key cannot be read: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise CannotIssue(f"{directory}: ca.key is not the key of ca.pem")
    return key, certificate


def _issue_one(
    directory: Path,
    authority_key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    cluster: str,
    service: str,
    names: Sequence[str],
    days: int,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    said: list[x509.GeneralName] = [x509.UniformResourceIdentifier(f"legato://{cluster}/{service}")]
    said.append(x509.DNSName(f"{service}.{cluster}.legato"))
    if service in _NAMED_BY_HOST:
        said += [_general_name(name) for name in names]
    uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    certificate = (
        _builder(_named(service), authority.subject, key, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(uses, critical=False)
        .add_extension(x509.SubjectAlternativeName(said), critical=False)
        .add_extension(signer, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    _write(directory, service, key, certificate)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write(directory: Path, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    """The key first: a certificate is never there without its key."""
    with _replacing(directory / f"{name}.key") as descriptor:
        os.write(descriptor, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with _replacing(directory / f"{name}.pem") as descriptor:
        os.write(descriptor, certificate.public_bytes(Encoding.PEM))


@contextlib.contextmanager
def _replacing(path: Path) -> Generator[int]:
    """A file that takes the path's place at the end, readable for its owner only from the first byte on."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        yield descriptor
        os.fsync(descriptor)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
