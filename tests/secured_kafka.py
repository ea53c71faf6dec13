"""A private broker whose listeners ask for certificates and logins, and the files to reach it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.kafka_settings import KafkaSecurity
from tests.certificates import Authority, Certificate
from tests.private_kafka import PASSWORD, USER, Listener, PrivateKafka, private_kafka

#: Names of listeners: one asks for the client's certificate, one for a login; what the last two
#: show is for another host, or not valid any more.
MUTUAL, LOGIN, ELSEWHERE, EXPIRED = "MUTUAL", "LOGIN", "ELSEWHERE", "EXPIRED"
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
KEY_PASSWORD = "right-key-password"
#: A broker that was killed and comes back waits until it has forgotten itself.
_PROPERTIES = {"broker.session.timeout.ms": "3000", "broker.heartbeat.interval.ms": "500"}
_MODULES = "org.apache.kafka.common.security"
_LOGINS = {
    "sasl.enabled.mechanisms": ",".join(MECHANISMS),
    "plain.sasl.jaas.config": f"{_MODULES}.plain.PlainLoginModule required "
    f'user_{USER}="{PASSWORD}";',
    **{
        f"{mechanism.lower()}.sasl.jaas.config": f"{_MODULES}.scram.ScramLoginModule required;"
        for mechanism in MECHANISMS[1:]
    },
}


class SecuredKafka:
    """The broker's listeners, and how they are reached rightly."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._authority = Authority(folder / "trusted")
        self.stranger = Authority(folder / "stranger")
        """One that signed nothing of the broker's, and is not trusted by it."""
        self.strangers_certificate = self.stranger.signed("client")
        self.certificate = self._authority.signed("client")
        self.encrypted_key_file = self.certificate.encrypted_key(KEY_PASSWORD)
        here = self._authority.signed("broker", "IP:127.0.0.1")
        elsewhere = self._authority.signed("elsewhere", "DNS:elsewhere.example")
        expired = self._authority.signed("expired", "IP:127.0.0.1", expired=True)
        self.listeners = (
            Listener(MUTUAL, "SSL", {**self._shown(here), "ssl.client.auth": "required"}),
            Listener(LOGIN, "SASL_SSL", {**self._shown(here), **_LOGINS}),
            Listener(ELSEWHERE, "SSL", self._shown(elsewhere)),
            Listener(EXPIRED, "SSL", self._shown(expired)),
        )
        self.format_words = tuple(
            word
            for mechanism in MECHANISMS[1:]
            for word in ("--add-scram", f"{mechanism}=[name={USER},password={PASSWORD}]")
        )
        self.ca_file = str(self._authority.certificate_file)

    @property
    def secrets(self) -> set[str]:
        """What of the keys must be shown nowhere: each line of them."""
        keys = (self.certificate.key_file, self.encrypted_key_file)
        lines = {line for key in keys for line in key.read_text().splitlines()}
        return {line for line in lines if not line.startswith("-----")}

    def _shown(self, certificate: Certificate) -> dict[str, str]:
        return {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(certificate.both_file),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self._authority.certificate_file),
        }

    def by_certificate(self, **other: Any) -> KafkaSecurity:
        """Return the security settings for `MUTUAL`, but for those given."""
        certificate = {
            "certificate_file": str(self.certificate.certificate_file),
            "key_file": str(self.certificate.key_file),
        }
        rightly = {"protocol": "SSL", "ca_file": self.ca_file, **certificate}
        return KafkaSecurity(**{**rightly, **other})

    def by_login(self, **other: Any) -> KafkaSecurity:
        """Return the security settings for `LOGIN`, but for those given."""
        login = {"mechanism": MECHANISMS[-1], "username": USER, "password": PASSWORD}
        rightly = {"protocol": "SASL_SSL", "ca_file": self.ca_file, **login}
        return KafkaSecurity(**{**rightly, **other})


@contextmanager
def secured_kafka(folder: Path) -> Iterator[tuple[SecuredKafka, PrivateKafka]]:
    """Start the broker, as `private_kafka` does."""
    secured = SecuredKafka(folder)
    more = secured.listeners, secured.format_words, _PROPERTIES
    with private_kafka(folder, *more) as broker:
        yield secured, broker
