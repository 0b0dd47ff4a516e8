"""The reference of the API: the OpenAPI document for programs, and the same as a page for people."""

from __future__ import annotations

from functools import cache

from fastapi import APIRouter, FastAPI
from starlette.responses import HTMLResponse, JSONResponse, Response

from service.gateway.routes.queries import KNOWN_QUERY
from service.gateway.shapes import reference_page


def router(app: FastAPI) -> APIRouter:
    """The routes that show `app.openapi()`; they are not part of it."""
    routes = APIRouter(dependencies=[KNOWN_QUERY])

    @cache
    def page() -> str:
        return reference_page.html(app.openapi())

    @routes.get("/openapi.json", include_in_schema=False)
    async def document() -> Response:
        return JSONResponse(app.openapi())

    @routes.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(page())

    return routes
