"""Certificates for the TLS tests, made anew for each run."""

import datetime
import ipaddress
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)


class Authority:
    """A certificate authority; its certificate and those it signs are files in `directory`."""

    def __init__(self, directory, name="authority"):
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = self._subject(name)
        certificate = self._sign(self._name, self._key, x509.BasicConstraints(ca=True, path_length=None))
        self.certificate = self._save(f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM))

    def issue_for_itself(self):
        """A certificate for 127.0.0.1 that signs itself and is an authority, as `openssl req -x509` makes them."""
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = self._sign(self._name, self._key, names, x509.BasicConstraints(ca=True, path_length=None))
        private = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = certificate.public_bytes(serialization.Encoding.PEM)
        return self._save("itself.pem", public), self._save("itself-key.pem", private)

    def issue(self, name, usage):
        """Makes a key and a certificate for 127.0.0.1; returns the paths of certificate and key."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName(
            [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
        )
        certificate = self._sign(self._subject(name), key, names, x509.ExtendedKeyUsage([usage]))
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = certificate.public_bytes(serialization.Encoding.PEM)
        return self._save(f"{name}.pem", public), self._save(f"{name}-key.pem", private)

    @staticmethod
    def _subject(name):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    def _sign(self, subject, key, *extensions):
        today = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(today - DAY).not_valid_after(today + DAY)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self._key, hashes.SHA256())

    def _save(self, name, content):
        path = self._directory / name
        path.write_bytes(content)
        return str(path)


class Certificates:
    """What a NATS server and its clients need; `other_authority` has signed none of it."""

    def __init__(self, directory):
        authority = Authority(directory)
        self.authority = authority.certificate
        self.server, self.server_key = authority.issue("server", ExtendedKeyUsageOID.SERVER_AUTH)
        self.client, self.client_key = authority.issue("client", ExtendedKeyUsageOID.CLIENT_AUTH)
        self.other_authority = Authority(directory, "other-authority").certificate

    def server_config(self, extra=""):
        return f'tls {{ cert_file: "{self.server}", key_file: "{self.server_key}", {extra} }}'

    def client_context(self):
        """For the tests' own client."""
        context = ssl.create_default_context(cafile=self.authority)
        context.load_cert_chain(self.client, self.client_key)
        return context
