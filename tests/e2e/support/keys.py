"""NATS keys and JWTs, made anew for each run."""

import base64
import hashlib
import json
import os
import time
from datetime import UTC, datetime

import nkeys


def new_pair(prefix):
    """A key pair of the kind `prefix` (nkeys.PREFIX_BYTE_...): the signer, its seed and its public key."""
    seed = nkeys.encode_seed(os.urandom(32), prefix)
    pair = nkeys.from_seed(bytearray(seed))
    return pair, seed.decode(), pair.public_key.decode()


def jwt(issuer, issuer_public, subject, name, claims):
    """A token in the form nats-server reads: Ed25519 over header and claims."""

    def part(value):
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    now = int(time.time())
    body = {"jti": "e2e", "iat": now, "iss": issuer_public, "sub": subject, "name": name, "nats": {**claims, "version": 2}}
    signed = part({"typ": "JWT", "alg": "ed25519-nkey"}) + "." + part(body)
    return signed + "." + part(issuer.sign(signed.encode()))


class Operator:
    """An operator with one account and one user: the server's configuration and the user's credentials file."""

    def __init__(self):
        operator, _, operator_public = new_pair(nkeys.PREFIX_BYTE_OPERATOR)
        account, _, account_public = new_pair(nkeys.PREFIX_BYTE_ACCOUNT)
        _, user_seed, user_public = new_pair(nkeys.PREFIX_BYTE_USER)
        unlimited = {"subs": -1, "data": -1, "payload": -1}
        limits = {**unlimited, "imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1}
        operator_jwt = jwt(operator, operator_public, operator_public, "op", {"type": "operator"})
        account_jwt = jwt(operator, operator_public, account_public, "acc", {"type": "account", "limits": limits})
        user_jwt = jwt(account, account_public, user_public, "user", {"type": "user", **unlimited})
        self.server_config = (
            f"operator: {operator_jwt}\nresolver: MEMORY\nresolver_preload: {{ {account_public}: {account_jwt} }}\n"
        )
        self.creds = (
            f"-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user_seed}\n------END USER NKEY SEED------\n"
        )


def new_user():
    """A user's public key and its seed."""
    _, seed, public = new_pair(nkeys.PREFIX_BYTE_USER)
    return public, seed


class Signer:
    """A user without a connection of its own, who signs requests as chapter 13 of the agent protocol says."""

    def __init__(self):
        self.pair, _, self.key = new_pair(nkeys.PREFIX_BYTE_USER)

    def headers(self, subject, payload, account="$G"):
        """The header of one request, signed now."""
        time, nonce = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), os.urandom(8).hex()
        digest = hashlib.sha256(payload.encode() if isinstance(payload, str) else payload).hexdigest()
        lines = ["AGENT-SENDER-V1", account, self.key, subject, time, nonce, digest]
        signature = self.pair.sign("".join(f"{line}\n" for line in lines).encode())
        sender = {"v": 1, "account": account, "user": self.key, "sub": subject, "ts": time, "nonce": nonce}
        sender["sig"] = base64.urlsafe_b64encode(signature).decode().rstrip("=")
        return {"Agent-Sender": json.dumps(sender)}
