"""How we prove to Redis who we are, and it to us."""

from pathlib import Path
from typing import Any

from services.common import tls
from services.common.config import SettingsError, StateSection


def of(section: StateSection) -> dict[str, Any]:
    """Keywords of a Redis connection. Raises SettingsError for what cannot be used."""
    given: dict[str, Any] = {}
    if section.user:
        given["username"] = section.user
    if password := section.password.get_secret_value():
        given["password"] = password
    return given | _certificates(section)


def _certificates(section: StateSection) -> dict[str, Any]:
    cert_file, key_file = section.cert_file, section.key_file
    if bool(cert_file) != bool(key_file):
        raise SettingsError("[state] cert_file and key_file: give both or neither")
    if not section.url.startswith("rediss://"):
        if section.ca_file or cert_file:
            raise SettingsError("[state] ca_file and cert_file: are for a url that begins with rediss://")
        return {}
    if not cert_file and (own := tls.own()) is not None:
        cert_file, key_file = own.cert_file, own.key_file
    found: dict[str, Any] = {"ssl_check_hostname": True}
    for keyword, name in (("ssl_ca_certs", section.ca_file), ("ssl_certfile", cert_file), ("ssl_keyfile", key_file)):
        if name and not Path(name).is_file():
            raise SettingsError(f"[state] {name}: there is no such file")
        found |= {keyword: name} if name else {}
    return found
