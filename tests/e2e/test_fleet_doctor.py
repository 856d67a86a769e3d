"""What `nats-pi-bridge doctor` says of JetStream."""

import json


def said_of_jetstream(daemon):
    findings = json.loads(daemon.run_to_end("doctor", "--json").stdout)["findings"]
    return [(finding["health"], finding["text"]) for finding in findings if finding["about"] == "JetStream"]


def test_the_level_and_the_limits_are_told(new_daemon, own_server, tmp_path):
    limits = f"max_mem: 1M, max_file: 64M, store_dir: '{tmp_path}/store'"
    ((health, text),) = said_of_jetstream(new_daemon(own_server(f"jetstream {{ {limits} }}").url))
    assert health == "ok" and text.startswith("API level "), text
    assert text.endswith("; 0 bytes, 0 streams are used"), text


def test_a_user_without_jetstream_needs_none(new_daemon, own_server, tmp_path):
    accounts = "accounts { A { users: [{ user: u, password: p }] } }\nno_auth_user: u\n"
    server = own_server(f"jetstream {{ store_dir: '{tmp_path}/store' }}\n{accounts}")
    ((health, text),) = said_of_jetstream(new_daemon(server.url))
    assert health == "ok" and text.startswith("it is not for this user, and is not needed"), text
    without = own_server("").url
    assert said_of_jetstream(new_daemon(without)) == [], "a server without it is not asked"
    host = new_daemon(without)
    host.config["fleet"] = True
    ((health, text),) = said_of_jetstream(host)
    assert health == "failure" and text.startswith("it is not for this user"), text
