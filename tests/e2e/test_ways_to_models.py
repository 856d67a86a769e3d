"""Ways to the models: whose certificates are trusted, and which proxy is gone through."""

import base64
import shutil
from pathlib import Path

import pytest

from support.certificates import Authority, ExtendedKeyUsageOID
from support.daemon import providers
from support.model_server import ModelServer
from support.proxy import Proxy

pytestmark = pytest.mark.any_server


class TestCertificates:
    @pytest.fixture
    def authority(self, tmp_path_factory):
        return Authority(tmp_path_factory.mktemp("tls"))

    @pytest.fixture
    def model(self, authority):
        server = ModelServer(authority.issue("model", ExtendedKeyUsageOID.SERVER_AUTH))
        yield server
        server.close()

    @pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "SSL_CERT_DIR"])
    def test_a_companys_own_authority(self, new_daemon, model, authority, tmp_path, variable):
        daemon = new_daemon()
        bundle = tmp_path / "certificates/company.pem"
        bundle.parent.mkdir()
        broken = "-----BEGIN CERTIFICATE-----\nbroken\n-----END CERTIFICATE-----\n"
        bundle.write_text(f"# What the company uses\n{broken}{Path(authority.certificate).read_text()}")
        daemon.environment[variable] = str(bundle.parent if variable == "SSL_CERT_DIR" else bundle)
        model.script("trusted", "again")
        daemon.start()
        assert daemon.run("x").text() == "trusted"
        assert daemon.run("x").text() == "again"
        daemon.wait_log(r"company\.pem: certificate 1 is left out")

    def test_what_is_named_and_not_there_costs_only_itself(self, new_daemon, model, authority, tmp_path):
        daemon = new_daemon()
        daemon.environment["NODE_EXTRA_CA_CERTS"] = str(tmp_path / "gone.pem")
        daemon.environment["SSL_CERT_DIR"] = f"{tmp_path / 'nowhere'}:{tmp_path}"
        shutil.copy(authority.certificate, tmp_path / "0a1b2c3d.0")
        model.script("trusted")
        daemon.start()
        assert daemon.run("x").text() == "trusted"
        daemon.wait_log(r"NODE_EXTRA_CA_CERTS: .*gone\.pem")
        daemon.wait_log(r"SSL_CERT_DIR: .*nowhere")

    @pytest.mark.parametrize("named", [True, False])
    def test_a_server_that_signs_itself(self, new_daemon, authority, named):
        certificate, key = authority.issue_for_itself()
        model = ModelServer((certificate, key))
        daemon = new_daemon()
        daemon.write_agent_file("models.json", providers(model.url))
        if named:
            daemon.environment["NODE_EXTRA_CA_CERTS"] = certificate
        daemon.start()
        model.script("trusted")
        if named:
            assert daemon.run("x").text() == "trusted"
        else:
            assert "TLS failure" in str(daemon.run("x").failure())
        model.close()

    def test_others_are_refused_with_what_helps(self, daemon):
        error = str(daemon.run("x").failure())
        assert "UnknownIssuer" in error and "NODE_EXTRA_CA_CERTS" in error and "SSL_CERT_FILE" in error


class TestProxy:
    @pytest.fixture
    def proxy(self, model):
        found = Proxy(model.port)
        yield found
        found.close()

    @pytest.fixture
    def far(self, new_daemon):
        """A daemon whose models are on a host that only a proxy knows."""
        daemon = new_daemon()
        daemon.write_agent_file("models.json", providers("http://models.invalid"))
        return daemon

    def test_the_setting_counts(self, far, model, proxy):
        far.write_agent_file("settings.json", {"httpProxy": f"http://ada:p%40ss@{proxy.address}"})
        far.start()
        model.script("through", "through")
        assert far.run("x").text() == "through"
        credentials = "Basic " + base64.b64encode(b"ada:p@ss").decode()
        assert proxy.asked == [("models.invalid:80", credentials)]
        # A change counts at the next request.
        far.write_agent_file("settings.json", {"httpProxy": "http://127.0.0.1:9", "retry": {"enabled": False}})
        error = str(far.run("x").failure())
        assert "onnect" in error

    def test_the_environment_beats_it(self, far, model, proxy):
        far.write_agent_file("settings.json", {"httpProxy": "http://127.0.0.1:9"})
        far.environment["HTTP_PROXY"] = far.environment["HTTPS_PROXY"] = f"http://{proxy.address}"
        far.start()
        model.script("through")
        assert far.run("x").text() == "through"

    def test_no_proxy_is_respected(self, far, proxy):
        far.write_agent_file("settings.json", {"httpProxy": proxy.address, "retry": {"enabled": False}})
        far.environment["NO_PROXY"] = "models.invalid"
        far.start()
        far.run("x").failure()
        assert proxy.asked == []

    def test_a_project_names_none(self, far, proxy):
        far.config["trustedFolders"] = [str(far.cwd)]
        far.write_agent_file("settings.json", {"retry": {"enabled": False}})
        (far.cwd / ".pi").mkdir()
        (far.cwd / ".pi/settings.json").write_text(f'{{"httpProxy": "http://{proxy.address}"}}')
        far.start()
        far.run("x").failure()
        assert proxy.asked == []

    def test_one_that_is_none_is_told(self, far):
        far.write_agent_file("settings.json", {"httpProxy": "socks5://secret@h:1", "retry": {"enabled": False}})
        far.start()
        error = str(far.run("x").failure())
        assert "httpProxy" in error and "secret" not in error
