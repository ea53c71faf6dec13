"""What TLS needs on this side, and why a broker's certificate is not trusted.

Both clients are given the same files; which of them is wrong is said here, before a client opens
them: librdkafka calls the settings otherwise, and OpenSSL says of most mistakes "PEM lib".
"""

from __future__ import annotations

import socket
import ssl
from contextlib import closing, suppress
from pathlib import Path

from pipeline.kafka_reach import LOOK_SECONDS, MAXIMUM_BROKERS
from pipeline.kafka_settings import KafkaSecurity, KafkaSettings
from synchroscope.errors import ConfigurationError

#: In both forms of a key that asks for a password, PKCS #8 and the older one.
_ENCRYPTED = b"ENCRYPTED"


def tls_context(settings: KafkaSettings) -> ssl.SSLContext:
    """Return how to talk to the brokers; a `ConfigurationError` names the setting that is wrong."""
    security = settings.security
    try:
        if security.key_file and not security.certificate_file:
            raise _WrongFileError("security.certificate_file is needed beside security.key_file")
        context = ssl.create_default_context(cafile=security.ca_file or None)
        if security.certificate_file:
            _load_certificate(context, security)
    except _WrongFileError as error:
        text, cause = str(error), error.__cause__
    except OSError as error:
        text = f"security.ca_file {_complaint(security.ca_file, 'certificate', error)}"
        cause = error
    else:
        return context
    raise ConfigurationError(f"{settings.server}: {text}") from cause


class _WrongFileError(Exception):
    """A file does not hold what it must; the text begins with the setting."""


def _load_certificate(context: ssl.SSLContext, security: KafkaSecurity) -> None:
    file, key_file = security.certificate_file, security.own_key_file
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
    except OSError as error:
        told = _complaint(file, "certificate", error)
        raise _WrongFileError(f"security.certificate_file {told}") from error
    try:
        # Without a password, even an empty one, OpenSSL would ask for it on the terminal.
        context.load_cert_chain(file, key_file, security.key_password)
    except OSError as error:
        raise _WrongFileError(_wrong_key(security, error)) from error


def _wrong_key(security: KafkaSecurity, error: OSError) -> str:
    key_file = security.own_key_file
    name = "security.key_file" if security.key_file else "security.certificate_file"
    reason = (isinstance(error, ssl.SSLError) and error.reason) or ""
    if reason == "KEY_VALUES_MISMATCH":
        return f"{name} {key_file} is not the key of security.certificate_file: name its own"
    if "TOO_" in reason:  # The certificate itself is too weak for OpenSSL.
        file = security.certificate_file
        return f"security.certificate_file {_complaint(file, 'certificate', error)}"
    with suppress(OSError):
        if _ENCRYPTED in Path(key_file).read_bytes():
            state = "does not open" if security.key_password else "is needed to open"
            return f"security.key_password {state} the key in {key_file}: give the one of this key"
    return f"{name} {_complaint(key_file, 'private key', error)}"


def _complaint(file: str, what: str, error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or str(error)).lower().replace("_", " ")
        return f"{file} holds no {what} in PEM that can be used ({reason}): name a file that does"
    return f"{file} cannot be read ({error.strerror}): name a file that can"


def why_not_trusted(settings: KafkaSettings) -> str:
    """Return what is wrong with a broker's certificate, found by asking for it; empty: nothing.

    librdkafka does not tell an authority that is not known from another host's certificate.
    """
    context = tls_context(settings)
    for broker in settings.bootstrap_servers.split(",")[:MAXIMUM_BROKERS]:
        name, _, port = broker.strip().rpartition(":")
        host = name.strip("[]")
        try:
            with closing(socket.create_connection((host, int(port)), LOOK_SECONDS)) as connection:
                context.wrap_socket(connection, server_hostname=host).close()
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
        except (OSError, ValueError):
            continue
    return ""
