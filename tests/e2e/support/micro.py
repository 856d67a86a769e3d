"""What the clients of micro services insist on in discovery's documents."""

import json
import re

from nats.micro.service import ServiceInfo, ServicePing, ServiceStats

NAME = re.compile(r"[A-Za-z0-9_-]+")
# The regular expression of semver.org.
VERSION = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)"
    r"(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?"
)


def string_map(value):
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def count(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


COMMON = {
    "type": lambda value: isinstance(value, str),
    "name": lambda value: NAME.fullmatch(value),
    "id": lambda value: NAME.fullmatch(value),
    "version": lambda value: VERSION.fullmatch(value),
    "metadata": string_map,
}
ENDPOINT = {
    "name": lambda value: NAME.fullmatch(value),
    "subject": lambda value: isinstance(value, str) and value,
    "queue_group": lambda value: isinstance(value, str),
}


def check(document, shape, optional=()):
    """The strict reading: every field is there and fits, and there is no other."""
    assert set(document) - set(optional) == set(shape) - set(optional)
    for name, fits in shape.items():
        if name in document:
            assert fits(document[name]), f"{name}: {document[name]!r}"


def validate(document):
    """Checks a document as the schemas of the nats command and the Python client do."""
    kind = document["type"].removeprefix("io.nats.micro.v1.")
    text = json.dumps(document)
    if kind == "ping_response":
        check(document, COMMON)
        ServicePing.from_dict(json.loads(text))
    elif kind == "info_response":
        check(document, {**COMMON, "description": lambda value: isinstance(value, str), "endpoints": bool})
        for endpoint in document["endpoints"]:
            check(endpoint, {**ENDPOINT, "metadata": string_map}, optional=["metadata"])
        ServiceInfo.from_dict(json.loads(text))
    elif kind == "stats_response":
        check(document, {**COMMON, "started": utc, "endpoints": bool})
        for endpoint in document["endpoints"]:
            counters = dict.fromkeys(("num_requests", "num_errors", "processing_time", "average_processing_time"), count)
            extra = {"last_error": lambda value: isinstance(value, str), "data": lambda value: isinstance(value, dict)}
            check(endpoint, {**ENDPOINT, **counters, **extra})
        ServiceStats.from_dict(json.loads(text))
    else:
        raise AssertionError(f"unknown type {document['type']}")
    return document


def utc(text):
    return re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
