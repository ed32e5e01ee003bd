"""Whether W&B can be reached, decided within seconds and without a prompt."""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.request
from base64 import b64encode
from dataclasses import dataclass
from http import HTTPStatus
from queue import Empty, Queue
from urllib.parse import urlsplit

from covidnet.base.errors import SettingError

MODES = ("online", "offline", "disabled")
"""The values of `mode` besides None, which chooses automatically."""

REMEDY = "wandb login, a valid WANDB_API_KEY, or WANDB_MODE=offline"
"""The remedy for a refused key."""

# Names in older releases of wandb.
_SYNONYMS = {"dryrun": "offline", "run": "online"}


@dataclass(frozen=True)
class Decision:
    """Where a run is logged.

    Args:
        mode: one of `MODES`.
        server: the address of the server.
        reason: why it is not online; empty if it is.
    """

    mode: str
    server: str
    reason: str = ""


def decide(mode: str | None = None, seconds: float = 5.0) -> Decision:
    """Online if there is a key and the server answers, otherwise offline; a requested mode takes precedence.

    Args:
        mode: one of `MODES`, or None for WANDB_MODE, else the mode set by ``wandb offline``, else automatic.
        seconds: how long the server may take.

    Returns:
        The mode with its reason. It is offline if the server does not answer, even if online was requested.

    Raises:
        SettingError: the mode is unknown, the key is refused, or online was requested without a key.
    """
    from wandb.sdk import wandb_setup

    configured = wandb_setup.singleton().settings
    server = (os.environ.get("WANDB_BASE_URL") or configured.base_url).rstrip("/")
    requested = mode or os.environ.get("WANDB_MODE") or None
    if requested is None and configured.mode != "online":
        # The default is online; anything else comes from a settings file.
        requested = configured.mode
    requested = None if requested is None else _SYNONYMS.get(requested, requested)
    if requested is not None and requested not in MODES:
        raise SettingError("logger.wandb.mode" if mode else "WANDB_MODE", requested, MODES)
    if requested in ("offline", "disabled"):
        return Decision(requested, server, "as requested")
    has_key, key = credentials(server)
    if not has_key:
        if requested == "online":
            raise refused(server, "there is no key")
        return Decision("offline", server, "there is no key")
    if silence := probe(server, key, seconds):
        return Decision("offline", server, f"{urlsplit(server).netloc} does not answer: {silence}")
    return Decision("online", server)


def credentials(server: str) -> tuple[bool, str | None]:
    """The key for a server, from WANDB_API_KEY, the netrc file or wandb's settings; never from a prompt.

    Args:
        server: its address.

    Returns:
        Whether there are credentials, and the key; None for an identity token.

    Raises:
        SettingError: the key is malformed.
    """
    from wandb.errors import AuthenticationError
    from wandb.sdk.lib import wbauth

    try:
        found = wbauth.authenticate_session(host=server, source="covidnet", prompt=False, update_session=False)
    except (AuthenticationError, ValueError) as error:
        raise refused(server, str(error)) from None
    return found is not None, getattr(found, "api_key", None)


def probe(server: str, key: str | None, seconds: float) -> str:
    """Check that a server answers and accepts the key.

    Args:
        server: its address.
        key: None only checks whether the server answers.
        seconds: the time limit.

    Returns:
        Why it does not answer; empty if it does.

    Raises:
        SettingError: the key is refused.
    """
    answers: Queue[int | str] = Queue()
    # Name look-up has no time limit, and a server may send one byte per second: only a thread can be abandoned.
    threading.Thread(target=lambda: answers.put(_ask(server, key, seconds)), daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except Empty:
        return f"nothing in {seconds:g} s"
    if answer in (401, 403) and key is not None:
        raise refused(server, f"the key is refused ({answer} {HTTPStatus(int(answer)).phrase})")
    return answer if isinstance(answer, str) else ""


def _ask(server: str, key: str | None, seconds: float) -> int | str:
    """The status of the answer, or why there is none."""
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = "Basic " + b64encode(f"api:{key}".encode()).decode()
    try:
        question = urllib.request.Request(f"{server}/graphql", b'{"query": "query Viewer { viewer { id } }"}', headers)
        with urllib.request.urlopen(question, timeout=seconds) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except urllib.error.URLError as error:
        # wandb may trust a certificate that Python does not.
        return 0 if "CERTIFICATE" in str(error.reason) else str(error.reason)
    except ValueError:  # an invalid address, for which wandb has a better message
        return 0
    except Exception as error:  # sockets fail in many ways
        return " ".join(str(error).split()) or type(error).__name__


def refused(server: str, cause: str) -> SettingError:
    """The error for a key that a server does not accept.

    Args:
        server: its address.
        cause: what is wrong.
    """
    return SettingError(
        "logger", "wandb", f"a key that {urlsplit(server).netloc or server} accepts", f"{cause.rstrip('.')}: {REMEDY}"
    )
