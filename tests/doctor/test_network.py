from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmpo.doctor.kernels import Trial
from dmpo.doctor.network import answer_of, is_offline, network_checks, read_network
from tests.doctor.facts import GIB, network


class Closed(http.server.BaseHTTPRequestHandler):
    """Answers every request with 403."""

    def do_HEAD(self) -> None:
        self.send_error(403)

    def log_request(self, *args: object) -> None:
        pass

    log_error = log_request


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), Closed) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


def test_an_answer_is_an_answer_whatever_it_says(server: str) -> None:
    assert answer_of(server) == "403"


def test_nobody_there_is_an_error_in_the_systems_words() -> None:
    with pytest.raises(OSError, match=r"^Connection refused$"):
        answer_of("http://127.0.0.1:1")


def test_an_address_that_is_none_of_the_webs_is_not_opened() -> None:
    with pytest.raises(ValueError, match="HF_ENDPOINT"):
        answer_of("file:///etc/hostname")


def test_the_token_is_never_shown(tmp_path: Path) -> None:
    environment = {"HF_TOKEN": "hf_secret", "HF_HOME": str(tmp_path)}
    facts = read_network(environment)
    assert facts.has_token
    assert "hf_secret" not in repr(facts)
    assert not any("hf_secret" in check.detail for check in network_checks(facts, None))


def test_a_password_in_the_address_is_never_shown() -> None:
    facts = read_network({"HF_ENDPOINT": "https://me:secret@mirror.example/hub/"})
    assert facts.endpoint == "https://mirror.example/hub"


def test_a_saved_token_counts(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_x")
    assert read_network({"HF_HOME": str(tmp_path)}).has_token


@pytest.mark.parametrize(("value", "offline"), [("1", True), ("true", True), ("0", False)])
def test_offline_is_what_the_library_takes_for_it(value: str, offline: bool) -> None:
    assert is_offline({"HF_HUB_OFFLINE": value}) is offline


def test_a_hub_that_was_not_asked_is_no_fault() -> None:
    hub, *_ = network_checks(network(is_offline=True), None)
    assert (hub.state, hub.detail) == (
        "absent",
        "https://huggingface.co was not asked: HF_HUB_OFFLINE is set",
    )


def test_a_hub_out_of_reach_is_a_warning_with_the_way_around_it() -> None:
    trial = Trial(name="hub", state="failed", detail="OSError: Connection refused")
    hub, *_ = network_checks(network(), trial)
    assert (hub.state, hub.fix) == ("warning", "export HF_HUB_OFFLINE=1")
    assert hub.detail == "https://huggingface.co does not answer: Connection refused"


def test_a_cache_without_room_for_a_model_is_a_warning() -> None:
    *_, cache = network_checks(network(cache_free=2 * GIB), None)
    assert cache.state == "warning"
    assert "2.0 GiB free; a model of 8B takes 20.0 GiB" in cache.detail
