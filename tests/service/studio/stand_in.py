"""A scripted stand-in for the REST side, for failures a real service does not produce on demand.

It speaks the documented JSON and event shapes, draws its own samples, and can drop an event stream in the
middle or refuse a request. The tests of the page's main ways run against the real gateway and a real worker.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

import service.gateway

STUDIO = Path(service.gateway.__file__).parent / "studio"
SIZE = (72, 96)
NOTE = "nano knows only its own illustrated world: try the samples. Real photos need klein-4b on a GPU."
COLOURS = {"tops": "#c0563b", "pants": "#33506e", "coats": "#8a7a5c", "hats": "#3c6e57", "bags": "#b08a3e"}


def draw_person(top: str = "#d9d4c8", coat: str | None = None) -> bytes:
    """A small drawn person as PNG bytes, 72 x 96 pixels."""
    image = Image.new("RGB", SIZE, "#e7e2d6")
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 80, 72, 96), fill="#cbbfa8")
    pen.ellipse((28, 8, 44, 26), fill="#c98f6b")
    pen.rectangle((24, 28, 48, 58), fill=top)
    pen.rectangle((26, 58, 34, 88), fill="#6b6f78")
    pen.rectangle((38, 58, 46, 88), fill="#6b6f78")
    if coat:
        pen.rectangle((18, 28, 30, 66), fill=coat)
        pen.rectangle((42, 28, 54, 66), fill=coat)
    return png(image)


def draw_garment(category: str) -> bytes:
    """A flat garment as PNG bytes."""
    image = Image.new("RGB", SIZE, "#f4f1ea")
    ImageDraw.Draw(image).rounded_rectangle((18, 22, 54, 72), 6, fill=COLOURS[category])
    return png(image)


def png(image: Image.Image, kind: str = "PNG") -> bytes:
    """Encoded bytes of a picture."""
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


@dataclass
class StandIn:
    """What the next requests meet; tests change the fields between steps."""

    url: str = ""
    step_s: float = 0.08
    steps: int = 4
    drop_after: int | None = None
    fallback: str | None = None
    hold_at: int | None = None
    released: threading.Event = field(default_factory=threading.Event)
    refuse: tuple[int, dict[str, Any]] | None = None
    key: str | None = None
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    keys_seen: list[str] = field(default_factory=list)
    last_event_ids: list[str | None] = field(default_factory=list)
    canceled: asyncio.Event = field(default_factory=asyncio.Event)

    def app(self) -> Starlette:
        """The ASGI app."""
        return Starlette(
            routes=[
                Route("/", lambda request: FileResponse(STUDIO / "index.html")),
                Route("/v1/models", self.models),
                Route("/v1/try-ons", self.create, methods=["POST"]),
                Route("/v1/try-ons/{id}", self.read),
                Route("/v1/try-ons/{id}/events", self.events),
                Route("/v1/try-ons/{id}/image", self.image),
                Route("/v1/try-ons/{id}/cancel", self.cancel, methods=["POST"]),
                Route("/studio/samples/manifest.json", self.manifest),
                Route("/studio/samples/{name}", self.sample),
                Mount("/studio", StaticFiles(directory=STUDIO)),
            ]
        )

    async def manifest(self, request: Request) -> Response:
        garments = [{"file": f"{c}.png", "category": c, "label": f"Sample {c}"} for c in COLOURS]
        outfit = {
            "person": "mira.png",
            "garments": [{"file": "tops.png"}, {"file": "coats.png", "layer": "open"}],
        }
        people = [{"file": "mira.png", "label": "Mira"}, {"file": "tom.png", "label": "Tom"}]
        return JSONResponse({"people": people, "garments": garments, "outfits": [{**outfit, "prompt": ""}]})

    async def sample(self, request: Request) -> Response:
        stem = request.path_params["name"].removesuffix(".png")
        return Response(draw_garment(stem) if stem in COLOURS else draw_person(), media_type="image/png")

    async def models(self, request: Request) -> Response:
        model = {
            "id": "nano",
            "device": "cpu",
            "note": NOTE,
            "default_steps": 4,
            "max_steps": 50,
            "size_multiple": 8,
        }
        return JSONResponse({"object": "list", "data": [model]})

    async def create(self, request: Request) -> Response:
        self.keys_seen.append(request.headers["idempotency-key"])
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            problem = {
                "title": "A valid API key is needed",
                "detail": "Send it as a bearer token.",
                "code": "unauthorized",
            }
            return JSONResponse(problem, 401)
        async with request.form():
            pass
        if self.refuse:
            (status, problem), self.refuse = self.refuse, None
            return JSONResponse(problem, status, headers={"Retry-After": "3"} if status == 503 else None)
        job_id = f"job{len(self.jobs)}"
        self.jobs[job_id] = self.job(job_id)
        return JSONResponse(self.jobs[job_id], 202)

    def job(self, job_id: str) -> dict[str, Any]:
        base = f"/v1/try-ons/{job_id}"
        return {
            "id": job_id,
            "status": "queued",
            "position": 2,
            "seed": 7,
            "attempts": 1,
            "model": "nano",
            "instruction": {
                "text": "The person of image 1 wearing the coat of image 2 open.",
                "by": "grammar",
                "fallback": self.fallback,
            },
            "timings": {},
            "result": None,
            "error": None,
            "links": {"events": f"{base}/events", "image": f"{base}/image", "cancel": f"{base}/cancel"},
        }

    async def read(self, request: Request) -> Response:
        job = self.jobs.get(request.path_params["id"])
        return JSONResponse(job) if job else JSONResponse({"title": "No such try-on", "code": "not-found"}, 404)

    async def image(self, request: Request) -> Response:
        return Response(draw_person("#c0563b", "#8a7a5c"), media_type="image/png")

    async def cancel(self, request: Request) -> Response:
        self.canceled.set()
        return JSONResponse(self.jobs[request.path_params["id"]])

    async def events(self, request: Request) -> Response:
        self.last_event_ids.append(request.headers.get("last-event-id"))
        first = int(request.headers.get("last-event-id", "0")) + 1
        return StreamingResponse(self.stream(request.path_params["id"], first), media_type="text/event-stream")

    async def stream(self, job_id: str, first: int) -> AsyncIterator[bytes]:
        job = self.jobs[job_id]
        preview = base64.b64encode(png(Image.open(io.BytesIO(draw_person("#c0563b"))), "JPEG")).decode()
        script: list[tuple[str, dict[str, Any]]] = [
            ("queued", {"position": 2}),
            ("processing", {"stage": "text"}),
        ]
        for step in range(1, self.steps + 1):
            at = {"stage": "denoise", "step": step, "steps": self.steps, "preview": preview}
            script.append(("progress", at))
        script.append(("succeeded", {}))
        for number, (kind, data) in enumerate(script, start=1):
            if number < first:
                continue
            if self.canceled.is_set():
                kind, data = "canceled", {}
            if kind in ("succeeded", "canceled"):
                self.end(job, kind)
            yield f"id: {number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode()
            if kind == "canceled":
                return
            if self.drop_after == number:
                self.drop_after = None
                return
            if self.hold_at == number:
                await asyncio.to_thread(self.released.wait)
            await asyncio.sleep(self.step_s)

    def end(self, job: dict[str, Any], status: str) -> None:
        job["status"] = status
        if status == "succeeded":
            job["timings"] = {
                "queue": 0.021,
                "text": 0.043,
                "denoise": 0.62,
                "vae_decode": 0.11,
                "total": 0.83,
            }
            job["result"] = {"url": job["links"]["image"], "width": 72, "height": 96}
