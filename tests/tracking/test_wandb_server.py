"""Whether W&B can be reached: without a question, and in seconds."""

from __future__ import annotations

import builtins
import os
import time
from pathlib import Path

import pytest

from covidnet.base.errors import SettingError
from covidnet.tracking.wandb_server import decide
from tests.refusals import refused
from tests.tracking.fakes import KEY, black_hole, wandb_server


@pytest.fixture(autouse=True)
def nobody_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object) -> str:
        raise AssertionError("a person was asked")

    monkeypatch.setattr(builtins, "input", asked)


def test_without_a_key_it_is_offline() -> None:
    decision = decide()
    assert (decision.mode, decision.reason) == ("offline", "there is no key")


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_a_mode_that_is_asked_for_needs_no_network(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        assert decide(mode).mode == mode
        monkeypatch.setenv("WANDB_MODE", mode)
        assert decide().mode == mode
        assert decide("online").mode == "online"
        assert len(server.operations) == 1


def test_what_wandb_offline_has_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(os.environ["WANDB_CONFIG_DIR"])
    folder.mkdir(parents=True)
    (folder / "settings").write_text("[default]\nmode = offline\n")
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        assert decide().reason == "as requested"


def test_a_key_of_the_netrc_file_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    with wandb_server() as server:
        file = Path(os.environ["NETRC"])
        file.write_text(f"machine {server.url.removeprefix('http://')}\nlogin user\npassword {KEY}\n")
        file.chmod(0o600)
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        assert decide().mode == "online"


def test_online_without_a_key_is_one_line() -> None:
    with pytest.raises(SettingError, match="there is no key: wandb login"):
        decide("online")


def test_a_key_that_cannot_be_one_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(SettingError, match=r"logger=wandb: .*WANDB_API_KEY.*wandb login"):
        decide()


def test_an_unknown_mode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with refused("logger.wandb.mode", "upside", ("online", "offline", "disabled")):
        decide("upside")


def test_a_server_that_says_nothing_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with black_hole() as hole:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_BASE_URL", hole)
        start = time.perf_counter()
        decision = decide(seconds=0.5)
        assert time.perf_counter() - start < 2
    assert decision.mode == "offline"
    assert "does not answer" in decision.reason


def test_a_port_that_nobody_listens_at_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with black_hole() as closed:
        pass
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", closed)
    assert "refused" in decide().reason.lower()


def test_a_server_with_troubles_of_its_own_is_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with wandb_server(503) as server:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        assert decide().mode == "online"
