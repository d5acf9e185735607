"""A library as an ordinary HTTP service: it knows nothing of MCP, but describes itself."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

BOOKS: dict[int, dict[str, object]] = {
    1: {"id": 1, "title": "Moby-Dick", "shelf": "novels"},
    2: {"id": 2, "title": "On the Origin of Species", "shelf": "science"},
}
BOOK = {
    "type": "object",
    "properties": {
        "id": {"type": "integer"},
        "title": {"type": "string"},
        "shelf": {"type": "string"},
    },
    "required": ["id", "title", "shelf"],
}


def answer(schema: dict[str, object]) -> dict[str, object]:
    """``responses`` of an operation."""
    content = {"application/json": {"schema": schema}}
    return {
        "200": {"description": "OK", "content": content},
        "404": {"description": "No such book"},
    }


BOOK_ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}
SHELF = {"name": "shelf", "in": "query", "schema": {"type": "string"}}
DOCUMENT = {
    "openapi": "3.1.0",
    "info": {"title": "Library", "version": "1"},
    "paths": {
        "/books": {
            "get": {
                "operationId": "listBooks",
                "summary": "List the books of a shelf, or all of them.",
                "parameters": [SHELF],
                "responses": answer({"type": "array", "items": BOOK}),
            },
            "post": {
                "operationId": "addBook",
                "summary": "Add a book.",
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "properties": {
                                    "title": {"type": "string", "minLength": 1},
                                    "shelf": {"type": "string"},
                                },
                                "required": ["title", "shelf"],
                            }
                        }
                    },
                },
                "responses": answer(BOOK),
            },
        },
        "/books/{id}": {
            "get": {
                "operationId": "getBook",
                "summary": "One book.",
                "parameters": [BOOK_ID],
                "responses": answer(BOOK),
            }
        },
    },
}


async def document(_request: Request) -> JSONResponse:
    """The description."""
    return JSONResponse(DOCUMENT)


async def books(request: Request) -> JSONResponse:
    """List, or add."""
    if request.method == "POST":
        number = max(BOOKS) + 1
        BOOKS[number] = {"id": number, **(await request.json())}
        return JSONResponse(BOOKS[number])
    shelf = request.query_params.get("shelf")
    return JSONResponse([book for book in BOOKS.values() if shelf in (None, book["shelf"])])


async def book(request: Request) -> JSONResponse:
    """One book."""
    found = BOOKS.get(request.path_params["id"])
    if found is None:
        return JSONResponse({"detail": "no such book"}, status_code=404)
    return JSONResponse(found)


app = Starlette(
    routes=[
        Route("/openapi.json", document),
        Route("/books", books, methods=["GET", "POST"]),
        Route("/books/{id:int}", book),
    ]
)
