"""Signatures of notifications, with a key and a certificate of the server's own."""

from __future__ import annotations

import hashlib
import threading
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

_SIGNED = ("Message", "MessageId", "Subject", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
_KEY_BITS = 1_024
"""SNS's own key has 2,048, and signing with that takes eight times as long. Signatures of test data need no strength."""

_VALID_DAYS = 3_650


class Signer:
    """Signs notifications. Thread-safe. The key is made at first use, which takes a moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._key: RSAPrivateKey | None = None
        self._certificate = b""

    @property
    def certificate(self) -> bytes:
        """The certificate as PEM."""
        self._make_key()
        return self._certificate

    @property
    def certificate_name(self) -> str:
        """The file name of the certificate, as SNS would call it."""
        return f"SimpleNotificationService-{hashlib.sha256(self.certificate).hexdigest()[:32]}.pem"

    @property
    def key_as_text(self) -> str | None:
        """The key and its certificate as PEM, for keeping; None if nothing was signed yet."""
        with self._lock:
            if self._key is None:
                return None
            from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - of an extra, and slow to import

            key = self._key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            return (key + self._certificate).decode()

    def use(self, text: str) -> None:
        """Sign with this key from now on, so that signatures of before a restart stay good.

        Raises:
            ValueError: it is not what ``key_as_text`` returns.
        """
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415

        key, begin, certificate = text.partition("-----BEGIN CERTIFICATE-----")
        found = serialization.load_pem_private_key(key.encode(), None)
        if not begin or not isinstance(found, rsa.RSAPrivateKey):
            raise ValueError("not an RSA key with its certificate")
        with self._lock:
            self._key, self._certificate = found, (begin + certificate).encode()

    @property
    def has_signed(self) -> bool:
        """True if there is a key."""
        return self._key is not None

    def sign(self, fields: Mapping[str, str], version: str) -> str:
        """Return the signature of a notification, or of another message of SNS.

        https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html
        """
        from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 - of an extra, and slow to import
        from cryptography.hazmat.primitives.asymmetric import padding  # noqa: PLC0415

        text = "".join(f"{name}\n{fields[name]}\n" for name in _SIGNED if name in fields)
        digest = hashes.SHA256() if version == "2" else hashes.SHA1()  # noqa: S303 - version 1 is SHA-1
        return b64encode(self._make_key().sign(text.encode(), padding.PKCS1v15(), digest)).decode()

    def _make_key(self) -> RSAPrivateKey:
        from cryptography import x509  # noqa: PLC0415
        from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415

        with self._lock:
            if self._key is None:
                key = rsa.generate_private_key(public_exponent=65_537, key_size=_KEY_BITS)
                name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sns.amazonaws.com")])
                now = datetime.now(UTC)
                certificate = (
                    x509.CertificateBuilder()
                    .subject_name(name)
                    .issuer_name(name)
                    .public_key(key.public_key())
                    .serial_number(x509.random_serial_number())
                    .not_valid_before(now - timedelta(days=1))
                    .not_valid_after(now + timedelta(days=_VALID_DAYS))
                    .sign(key, hashes.SHA256())
                )
                self._certificate = certificate.public_bytes(serialization.Encoding.PEM)
                self._key = key
            return self._key
