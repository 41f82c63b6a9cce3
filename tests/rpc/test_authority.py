"""The authority makes what each principal needs and no more, keeps it private, and writes over nothing unasked."""

import shutil
import stat
import threading
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from nanoclaw_core.errors import NanoclawError
from nanoclaw_rpc import certificates, private
from nanoclaw_rpc.authority import Authority
from nanoclaw_rpc.certificates import hosts_of, principal_of
from nanoclaw_rpc.credentials import SERVICES
from nanoclaw_rpc.tls import Tls, folder_of, from_settings

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_init_makes_the_authority_and_a_certificate_for_each_service(authority, home):
    """Each folder holds what its principal needs: three files that belong together."""
    principals = [one.principal for one in authority.held()]
    assert principals == ["operator:founder", *(f"service:{name}" for name in sorted(SERVICES))]
    for principal in principals:
        material = certificates.read(Tls(folder_of(home / "secrets", principal), principal))
        assert material.ca == authority.bundle.read_bytes()
    assert all(one.is_current for one in authority.held())


def test_only_the_owner_can_read_any_of_it(authority):
    """Files 0600, folders 0700, all the way down from the folder of secrets."""
    for path in [authority.folder.parent, authority.folder, *authority.folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_the_home_itself_stays_open_for_whom_it_must(tmp_path):
    """Agents of another user reach their mailboxes through it."""
    Authority(tmp_path / "home" / "secrets").create(days=1, authority_days=2, hosts={})
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) & 0o055


def test_nothing_is_written_over_unasked(authority):
    """Neither by a second init nor by a second certificate for the same operator."""
    before = files(authority.folder)
    for again in (
        lambda: authority.create(days=1, authority_days=1, hosts={}),
        lambda: authority.issue("operator:founder", days=1),
    ):
        with pytest.raises(NanoclawError) as caught:
            again()
        assert caught.value.reason == "CERTIFICATES_EXIST"
        assert "nanoclaw certs renew" in caught.value.next_step
    assert files(authority.folder) == before


def test_an_authority_whose_key_is_elsewhere_is_not_written_over_either(authority):
    """Who took the key away took it to keep it."""
    authority.key.rename(authority.folder.parent / "kept.key")
    with pytest.raises(NanoclawError):
        authority.create(days=1, authority_days=1, hosts={})


def test_an_init_that_was_broken_off_is_ended_by_the_next(authority, home):
    """Killed before the authority's key was in its place, or between two services: what was made stays as it is."""
    authority.key.rename(authority.key.with_name("ca.key.new"))
    for name in SERVICES[2:]:
        Tls(folder_of(home / "secrets", f"service:{name}"), "").certificate.unlink()
    before = files(authority.folder)
    assert authority.lacking() == list(SERVICES[2:])
    authority.create(days=1, authority_days=1, hosts={})
    assert authority.lacking() == []
    made = {Tls(folder_of(home / "secrets", f"service:{name}"), "").folder for name in SERVICES[2:]}
    after = files(authority.folder)
    assert {path for path in before if after.get(path) != before[path] and path.parent not in made} == {
        authority.key.with_name("ca.key.new")
    }
    for one in authority.held():
        certificates.read(Tls(one.path.parent, one.principal))
    assert authority.held()[0].is_current


def test_a_successor_that_was_broken_off_signs_all_the_same(authority):
    """Killed once it was in force, before its key was in place and all knew it: `renew` goes on from there."""
    old_key, known = authority.key.read_bytes(), authority.bundle.read_bytes()
    authority.succeed(days=30)
    authority.key.rename(authority.key.with_name("ca.key.new"))
    authority.key.write_bytes(old_key)
    for path in authority.folder.glob("*/*/ca.crt"):
        path.write_bytes(known)
    authority.renew(["service:broker"], days=1)
    assert [one.principal for one in authority.held() if one.is_current] == ["service:broker"]
    assert {path.read_bytes() for path in authority.folder.glob("*/*/ca.crt")} == {authority.bundle.read_bytes()}
    assert not authority.key.with_name("ca.key.new").exists()


def test_a_service_s_certificate_serves_under_its_own_name_alone_and_an_operator_s_not_at_all(authority):
    """What our clients check rests on this: no two services share the name that is asked for."""
    for one in authority.held():
        purposes = set(one.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        hosts = {str(name.value) for name in hosts_of(one.certificate)}
        if one.principal.startswith("operator:"):
            assert purposes == {ExtendedKeyUsageOID.CLIENT_AUTH}
            assert hosts == set()
        else:
            assert purposes == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
            assert hosts & set(SERVICES) == {one.principal.removeprefix("service:")}


def test_further_hosts_are_taken_and_carried_over_into_the_next_certificate(tmp_path):
    """A renewal must not make an address stop working."""
    authority = Authority(tmp_path)
    authority.create(days=30, authority_days=60, hosts={"governance": ["gov.example.com", "10.1.2.3"]})
    for _ in range(2):
        hosts = {one.principal: {str(name.value) for name in hosts_of(one.certificate)} for one in authority.held()}
        assert {"gov.example.com", "10.1.2.3", "governance", "localhost", "127.0.0.1"} <= hosts["service:governance"]
        assert "gov.example.com" not in hosts["service:broker"]
        authority.renew(days=30)


@pytest.mark.parametrize("host", ["broker", "*.example.com", "Gov", "a b", "", "-x", "a..b"])
def test_a_host_that_is_none_or_another_service_is_refused_and_nothing_is_made(tmp_path, host):
    """A gateway that may serve as broker would be the broker."""
    authority = Authority(tmp_path / "secrets")
    with pytest.raises(NanoclawError) as caught:
        authority.create(days=30, authority_days=60, hosts={"gateway": [host]})
    assert caught.value.reason == "INVALID_FIELD"
    assert not (tmp_path / "secrets").exists()


def test_a_certificate_ends_with_its_authority_at_the_latest(tmp_path):
    """Longer would look good and be worthless."""
    authority = Authority(tmp_path, now=lambda: NOW)
    authority.create(days=365, authority_days=10, hosts={})
    for one in authority.held():
        assert one.certificate.not_valid_after_utc == NOW + timedelta(days=10)
        assert one.certificate.not_valid_before_utc < NOW, "clocks differ"


def test_only_what_ends_soon_is_renewed_when_asked_so(tmp_path):
    """For cron: the rest stays as it is, to the byte."""
    authority = Authority(tmp_path, now=lambda: NOW)
    authority.create(days=100, authority_days=900, hosts={})
    authority.renew(["service:broker"], days=30)
    before = files(tmp_path)
    assert authority.renew(days=365, within=29) == []
    assert files(tmp_path) == before
    assert [one.principal for one in authority.renew(days=365, within=30)] == ["service:broker"]
    changed = {path.parent.name for path, content in files(tmp_path).items() if before[path] != content}
    assert changed == {"broker"}


def test_a_renewal_makes_a_new_key(authority, tls):
    """Whoever has copied the old one has it no longer than its certificate lasts."""
    before = tls("service:broker").key.read_bytes()
    authority.renew(["service:broker"], days=30)
    assert tls("service:broker").key.read_bytes() != before


def test_who_has_no_certificate_cannot_have_it_renewed(authority):
    """A mistyped name is not passed over."""
    before = files(authority.folder)
    with pytest.raises(NanoclawError) as caught:
        authority.renew(["service:broker", "operator:nobody"], days=30)
    assert caught.value.reason == "CERTIFICATE_NOT_FOUND"
    assert files(authority.folder) == before


def test_an_old_authority_is_dropped_only_when_nothing_here_needs_it(authority, tls):
    """All folders trust both in between; a drop too early would lock everybody out."""
    old = authority.authorities()
    assert [one.serial_number for one in authority.succeed(days=60)[1:]] == [one.serial_number for one in old]
    for one in authority.held():
        assert not one.is_current
        assert (one.path.parent / "ca.crt").read_bytes() == authority.bundle.read_bytes()
    authority.renew(["service:broker"], days=30)
    with pytest.raises(NanoclawError) as caught:
        authority.retire()
    assert caught.value.reason == "AUTHORITY_IN_USE"
    assert "operator:founder" in caught.value.message
    assert "service:broker" not in caught.value.message
    authority.renew(days=30)
    assert authority.retire() == old
    assert len(x509.load_pem_x509_certificates(tls("service:broker").ca.read_bytes())) == 1
    assert authority.retire() == [], "nothing is left to drop"


def test_the_authority_s_key_may_be_kept_elsewhere_and_must_be_the_right_one(authority, tmp_path):
    """Named when it is needed; a wrong one signs nothing."""
    elsewhere = tmp_path / "kept.key"
    shutil.move(authority.key, elsewhere)
    for key in (None, tmp_path / "other.key"):
        (tmp_path / "other.key").write_bytes(tls_key := (authority.folder / "services/broker/tls.key").read_bytes())
        with pytest.raises(NanoclawError) as caught:
            Authority(authority.folder.parent, key=key).renew(days=30)
        assert caught.value.reason == "AUTHORITY_KEY"
        assert (authority.folder / "services/broker/tls.key").read_bytes() == tls_key
    assert Authority(authority.folder.parent, key=elsewhere).renew(days=30)


def test_without_an_authority_the_next_step_is_told(tmp_path):
    """Before init, or with a mistyped home."""
    for ask in (Authority(tmp_path).held, lambda: Authority(tmp_path).issue("operator:ana", days=1)):
        with pytest.raises(NanoclawError) as caught:
            ask()
        assert caught.value.reason == "NO_AUTHORITY"
        assert "nanoclaw certs init" in caught.value.next_step


def test_two_who_change_it_at_once_do_so_one_after_the_other(tmp_path):
    """Of two inits one wins, and what it made is whole."""
    outcomes = []

    def init():
        try:
            Authority(tmp_path / "secrets").create(days=30, authority_days=60, hosts={})
            outcomes.append("made")
        except NanoclawError as error:
            outcomes.append(error.reason)

    threads = [threading.Thread(target=init) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(outcomes) == ["CERTIFICATES_EXIST"] * 3 + ["made"]
    assert all(one.is_current for one in Authority(tmp_path / "secrets").held())


def test_a_private_file_is_never_open_wider_than_its_owner(tmp_path, monkeypatch):
    """Not even while it is written."""
    seen = []
    fsync = private.os.fsync

    def watched(descriptor):
        seen.append(stat.S_IMODE(private.os.fstat(descriptor).st_mode))
        fsync(descriptor)

    monkeypatch.setattr("nanoclaw_rpc.private.os.fsync", watched)
    private.write(tmp_path / "key", "x")
    assert seen == [0o600]
    assert (tmp_path / "key").read_text() == "x"


@pytest.mark.parametrize(
    "uris",
    [
        [],
        ["spiffe://nanoclaw/service/broker", "spiffe://nanoclaw/operator/ana"],
        ["spiffe://other/service/broker"],
        ["spiffe://nanoclaw/group/main"],
        ["spiffe://nanoclaw/service/broker/"],
        ["spiffe://nanoclaw/service/Broker"],
        ["https://nanoclaw/service/broker"],
        ["spiffe://nanoclaw/service/"],
    ],
)
def test_a_certificate_names_exactly_one_principal_or_nobody(uris):
    """Two names, a foreign trust domain, a group: none of them is anybody."""

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "service:broker")])
    built = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key(), serial_number=1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
    )
    if uris:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        built = built.add_extension(names, critical=False)
    assert principal_of(built.sign(key, hashes.SHA256())) == ""


def test_the_settings_mean_a_folder_or_nothing(tmp_path):
    """A folder that nothing would use is a mistake, told at the start."""
    assert from_settings(tmp_path, "service:broker", False, None) is None
    found = from_settings(tmp_path, "service:broker", True, None)
    assert found == Tls(tmp_path / "tls" / "services" / "broker", "service:broker")
    assert from_settings(tmp_path, "service:broker", True, tmp_path / "x") == Tls(tmp_path / "x", "service:broker")
    with pytest.raises(NanoclawError) as caught:
        from_settings(tmp_path, "service:broker", False, tmp_path / "x")
    assert caught.value.reason == "INVALID_SETTING"
    assert "NANOCLAW_TLS_ENABLED=1" in caught.value.next_step
