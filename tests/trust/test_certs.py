"""`legato certs` makes a directory that is its owner's, and leaves alone what is there."""

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from legato import certs, cli
from services.common import tls
from services.common.config import SettingsError, TlsSection
from services.local import together
from services.local.config import Settings
from tests.trust.conftest import CLUSTER, identity, issued, section


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def certificate(directory: Path, service: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((directory / f"{service}.pem").read_bytes())


def names(directory: Path, service: str) -> x509.SubjectAlternativeName:
    return certificate(directory, service).extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def test_the_command_makes_an_identity_for_each_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "deep" / "certs"
    assert cli.main(["certs", str(directory), "--cluster", "c1", "--names", "head, 10.0.0.1", "--days", "30"]) == 0
    assert "gateway, scheduler, kvpool, workflow, worker, etcd, redis, operator new" in capsys.readouterr().out
    authority = certificate(directory, "ca")
    for service in certs.SERVICES:
        certificate(directory, service).verify_directly_issued_by(authority)
        assert names(directory, service).get_values_for_type(x509.UniformResourceIdentifier) == [
            f"legato://c1/{service}"
        ]
    left = certificate(directory, "worker").not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=29) < left <= timedelta(days=30)


def test_only_those_that_are_looked_for_by_host_have_a_hosts_name(certificates: Path) -> None:
    for service in certs.SERVICES:
        dns = names(certificates, service).get_values_for_type(x509.DNSName)
        own = f"{service}.{CLUSTER}.legato"
        assert dns == ([own, "localhost"] if service in ("gateway", "etcd", "redis") else [own])


def test_everything_is_readable_for_its_owner_only(certificates: Path) -> None:
    assert certificates.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in certificates.iterdir()} == {0o600}


def test_a_second_run_makes_what_is_missing_and_changes_nothing(tmp_path: Path) -> None:
    before = contents(issued(tmp_path))
    assert certs.issue(tmp_path, CLUSTER, (), 1) == []
    assert contents(tmp_path) == before
    (tmp_path / "worker.key").unlink()
    assert certs.issue(tmp_path, CLUSTER, (), 1) == ["worker"]
    changed = {name for name, content in contents(tmp_path).items() if before[name] != content}
    assert changed == {"worker.key", "worker.pem"}


def test_renewing_replaces_identities_and_keeps_the_authority(tmp_path: Path) -> None:
    before = contents(issued(tmp_path))
    assert certs.issue(tmp_path, CLUSTER, (), 1, renew=True) == list(certs.SERVICES)
    after = contents(tmp_path)
    assert {name for name in after if before[name] == after[name]} == {"ca.pem", "ca.key"}
    identity(tmp_path, "worker")  # is believed


def test_a_lost_authority_is_not_replaced_behind_its_identities(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    issued(tmp_path)
    (tmp_path / "ca.key").unlink()
    before = contents(tmp_path)
    assert cli.main(["certs", str(tmp_path), "--renew"]) == 1
    assert "has no ca.pem and ca.key" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_openssl_believes_them(certificates: Path) -> None:
    files = [str(certificates / f"{service}.pem") for service in certs.SERVICES]
    command = ["openssl", "verify", "-x509_strict", "-CAfile", str(certificates / "ca.pem"), *files]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.count(": OK") == len(files)


def test_what_cannot_prove_who_we_are_is_refused_at_the_start(tmp_path: Path, certificates: Path) -> None:
    other = issued(tmp_path / "other")
    expired = issued(tmp_path / "expired", days=0)
    mixed = section(certificates).model_copy(update={"key_file": f"{other}/worker.key"})
    foreign = section(certificates).model_copy(update={"ca_file": f"{other}/ca.pem"})
    for wrong, cluster, message in (
        (TlsSection(ca_file="/ca.pem"), CLUSTER, "cert_file and key_file: needed"),
        (TlsSection(cert_file="/a.pem"), CLUSTER, "ca_file: needed"),
        (section(tmp_path / "missing"), CLUSTER, "No such file"),
        (mixed, CLUSTER, "is not the key of"),
        (foreign, CLUSTER, "was not issued by"),
        (section(expired), CLUSTER, "expired at"),
        (section(certificates), "another", "is not the certificate of legato://another/worker"),
    ):
        with pytest.raises(SettingsError, match=message):
            tls.identity(wrong, cluster, "worker")


async def test_services_that_share_a_process_cannot_be_told_apart(certificates: Path) -> None:
    with pytest.raises(SettingsError, match="processes of their own"):
        await together.running(Settings(tls=section(certificates)), None).__aenter__()


def test_files_in_the_midst_of_a_renewal_leave_the_identity_as_it_was(tmp_path: Path) -> None:
    worker = identity(issued(tmp_path), "worker")
    first, key = worker.pem(), (tmp_path / "worker.key").read_bytes()
    certs.issue(tmp_path, CLUSTER, (), 1, renew=True)
    new_key = (tmp_path / "worker.key").read_bytes()
    (tmp_path / "worker.key").write_bytes(key)
    assert worker.pem() is first
    (tmp_path / "worker.key").write_bytes(new_key)
    assert worker.pem().key == new_key
