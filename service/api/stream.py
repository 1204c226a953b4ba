"""`WS /sessions/{id}/stream`: masks while they are made, resumable, at the reader's pace or not at all."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, WebSocket
from starlette.websockets import WebSocketDisconnect

from service.api.follow import existing, first_position, follow, progress_message
from service.api.services import Services, owner_of, services_of
from service.api.sockets import Format, Sender, as_format, as_seq, checked_id, first_to_end, run_socket

router = APIRouter()


@router.websocket("/sessions/{session_id}/stream")
async def stream(
    socket: WebSocket, session_id: str, after: Annotated[str, Query()] = "-1", format: Annotated[str, Query()] = "rle"
) -> None:
    """Every mask from `seq` after + 1 on, exactly once and in order, then `end`."""

    async def serve() -> None:
        await _serve(socket, services_of(socket), session_id, as_seq(after), as_format(format))

    await run_socket(socket, serve)


async def _serve(socket: WebSocket, services: Services, session_id: str, after: int, format: Format) -> None:
    """Send until the end, or until the client goes: whichever of the two comes first."""
    record = await existing(services.store, checked_id(session_id), owner_of(socket))
    sender = Sender(socket, socket.app.state.pngs, services.settings.socket_stall_s, format)

    async def send_all() -> None:
        await sender.send(session_id, progress_message(record))
        with services.tailer.topic(session_id, first_position(after, record)) as topic:
            async for message in follow(topic, services.store, services.masks, after):
                await sender.send(session_id, message)

    await first_to_end(send_all(), _until_gone(socket))


async def _until_gone(socket: WebSocket) -> None:
    """Read what the client sends, which means nothing here, until it leaves. Raises WebSocketDisconnect."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
