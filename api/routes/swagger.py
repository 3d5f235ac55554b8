"""The description of the API for people, at /docs: Swagger's page, whose files are
served from here.

No browser is sent elsewhere for a script, so the page works where there is no way out,
and its Content-Security-Policy allows files of this address only.
"""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import FileResponse, HTMLResponse, Response

from protocol.errors import NotFound

router = APIRouter(include_in_schema=False)

FILES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Consilium - API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="icon" href="/docs/favicon-32x32.png"></head>
<body><div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script></body></html>
"""

START = """SwaggerUIBundle({
  url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis]
});
"""


@router.get("/docs")
async def documentation() -> HTMLResponse:
    return HTMLResponse(PAGE)


@router.get("/docs/start.js")
async def start() -> Response:
    return Response(START, media_type="text/javascript")


@router.get("/docs/{name}")
async def file(name: str) -> FileResponse:
    """One of Swagger's own."""
    # The name comes from the address: with any other a path could lead out of the
    # folder.
    if name not in FILES:
        raise NotFound(
            "There is no such address.", remedy="See /docs for what there is."
        )
    file_path = str(files("swagger_ui") / "static" / name)
    # An answer that says nothing is kept nowhere: the whole script would come anew with
    # each look at the page.
    hours = {"Cache-Control": "private, max-age=3600"}
    return FileResponse(file_path, media_type=FILES[name], headers=hours)
