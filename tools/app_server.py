"""The server of tools/app.py: one address of this machine, and nothing of the internet.

Gradio's page is served by uvicorn here, not by Gradio's `launch`. So nothing is shared, looked up
or counted elsewhere, and the browser is told to ask this server alone.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from panoptic_common.coco.image_reading import RGBImage
from panoptic_common.inference.explorer import Explorer

LOOPBACK = ("127.0.0.1", "::1")
# What the page may load, and from where; Gradio's scripts are made at run time in part.
POLICY = (
    b"default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'self'; "
    b"form-action 'self'; base-uri 'self'"
)
SECONDS_TO_CLOSE = 2  # that open pages are given when the program ends
Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


def bind(host: str, port: int) -> socket.socket:
    """Take an address to listen at.

    Args:
        host: name or number.
        port: 0 takes any that is free.

    Raises:
        OSError: it cannot be had; names it and says what to do.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise OSError(f"--host {host} is no address of this machine ({error.strerror})") from error
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise OSError(
            f"{host}:{port} cannot be listened at ({error.strerror}): use another --port or --host"
        ) from error
    return listener


class OwnSourcesOnly:
    """Tells browsers, with every answer of a server, to load nothing from elsewhere."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        """Wrap an ASGI application."""
        self._app = app

    async def __call__(self, scope: Message, receive: Callable[..., Any], send: Send) -> None:
        """Pass a request on, and add to its answer."""

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", []))
                message["headers"] = [*headers, (b"content-security-policy", POLICY)]
            await send(message)

        await self._app(scope, receive, answer)


def serve(
    explorer: Explorer,
    title: str,
    examples: Sequence[tuple[str, RGBImage]],
    listener: socket.socket,
) -> None:
    """Serve the page until a signal comes.

    Args:
        explorer: of the model.
        title: of the page.
        examples: name and image of each.
        listener: of `bind`.
    """
    with tempfile.TemporaryDirectory(prefix="panoptic_app_") as folder:
        # Before Gradio is imported: it counts uses, and keeps every file that it ever showed.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder, "shown"))
        import uvicorn

        from panoptic_tools.app_page import build_application

        application = build_application(explorer, title, examples, Path(folder))
        config = uvicorn.Config(
            OwnSourcesOnly(application),
            log_level="warning",
            timeout_graceful_shutdown=SECONDS_TO_CLOSE,
        )
        uvicorn.Server(config).run(sockets=[listener])
