"""A chat over WebSockets with FastAPI: an ordinary web app that knows nothing of the tunnel in front of it.

    .venv/bin/pip install fastapi uvicorn websockets
    .venv/bin/uvicorn --app-dir examples/chat chat:app --port 3000
    .venv/bin/fasttunnel server --no-token
    .venv/bin/fasttunnel client --server 127.0.0.1:7000 http://127.0.0.1:3000

Then open http://127.0.0.1:8080/ in two windows.
"""

from pathlib import Path

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse

app = FastAPI()
present: dict[WebSocket, str] = {}


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(Path(__file__).with_name("chat.html"))


@app.get("/present")
async def who_is_present() -> list[str]:
    return sorted(present.values())


@app.websocket("/chat/{name}")
async def chat(socket: WebSocket, name: str) -> None:
    await socket.accept()
    present[socket] = name
    await say(f"{name} came")
    try:
        while True:
            await say(f"{name}: {await socket.receive_text()}")
    except WebSocketDisconnect:
        del present[socket]
        await say(f"{name} left")


async def say(text: str) -> None:
    """Send `text` to everybody who is present."""
    for socket in list(present):
        try:
            await socket.send_text(text)
        except (WebSocketDisconnect, RuntimeError):  # left while we were sending; its own task notices
            continue
