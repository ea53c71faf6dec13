"""Authorities and certificates for tests, made with the openssl command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from msgspec import Struct

from tests.servers import missing

OPENSSL_SECONDS = 30.0
#: On elliptic curves: made in no time.
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
_SIGNING = """
[ca]
default_ca = authority
[authority]
database = {folder}/issued
new_certs_dir = {folder}
rand_serial = yes
unique_subject = no
default_md = sha256
policy = anything
copy_extensions = copy
x509_extensions = issued
[issued]
basicConstraints = critical, CA:false
authorityKeyIdentifier = keyid
[anything]
commonName = supplied
"""


class Certificate(Struct, frozen=True):
    """Where a certificate and its key are, in PEM; `both` is one file with the two."""

    certificate_file: Path
    key_file: Path
    both_file: Path

    def encrypted_key(self, password: str) -> Path:
        """Write the key anew, encrypted, and return where it is."""
        encrypted = self.key_file.with_suffix(".encrypted.pem")
        words = ("-topk8", "-v2", "aes-256-cbc", "-passout", f"pass:{password}")
        openssl("pkcs8", *words, "-in", str(self.key_file), "-out", str(encrypted))
        return encrypted


class Authority:
    """One that signs certificates, with its files in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self.certificate_file = folder / "authority.pem"
        self._key_file = folder / "authority-key.pem"
        self._settings_file = folder / "signing.cnf"
        self._settings_file.write_text(_SIGNING.format(folder=folder))
        (folder / "issued").touch()
        words = ("-x509", *_NEW_KEY, "-days", "2", "-subj", f"/CN=authority {folder.name}")
        files = ("-keyout", str(self._key_file), "-out", str(self.certificate_file))
        openssl("req", *words, *files)

    def signed(self, name: str, host: str = "", *, expired: bool = False) -> Certificate:
        """Make a key and a certificate for it; `host` as in ``IP:127.0.0.1`` or ``DNS:example``."""
        made, key, request, both = (
            self._folder / f"{name}{ending}.pem" for ending in ("", "-key", "-request", "-both")
        )
        extension = ("-addext", f"subjectAltName={host}") if host else ()
        files = ("-keyout", str(key), "-out", str(request))
        openssl("req", "-new", *_NEW_KEY, "-subj", f"/CN={name}", *extension, *files)
        dates = ("-startdate", "20200101000000Z", "-enddate", "20200102000000Z")
        authority = ("-cert", str(self.certificate_file), "-keyfile", str(self._key_file))
        files = ("-config", str(self._settings_file), "-in", str(request), "-out", str(made))
        valid = dates if expired else ("-days", "2")
        openssl("ca", "-batch", "-notext", *authority, *files, *valid)
        both.write_text(key.read_text() + made.read_text())
        return Certificate(made, key, both)


def openssl(*words: str) -> None:
    """Run the command; skip, or fail where servers are required, if there is none."""
    if shutil.which("openssl") is None:
        missing("the openssl command is missing: install OpenSSL")
    done = subprocess.run(
        ["openssl", *words], capture_output=True, text=True, timeout=OPENSSL_SECONDS, check=False
    )
    assert done.returncode == 0, f"openssl {' '.join(words)}: {done.stderr}"
