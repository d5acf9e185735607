"""An authorization server that keeps the rules, and a guard that lets nobody in without its tokens.

Every test bends one of them.
"""

import asyncio
import base64
import hashlib
import json
import secrets
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from mcp_proto.contracts.registry import OAuthClient
from mcp_proto.errors import ErrorKind, MeshError, Outcome


class Authority:
    """Registers clients, gives codes without asking anybody, and tokens for codes.

    Attributes:
        about: what its metadata says beside or instead of the usual.
        answer: what its answers to the redirect URI say beside or instead.
        token: what its token answers say beside or instead.
    """

    def __init__(self) -> None:
        self.base = ""
        self.path = ""
        self.about: dict[str, Any] = {}
        self.answer: dict[str, Any] = {}
        self.token: dict[str, Any] = {}
        self.methods = ["client_secret_basic", "client_secret_post", "none"]
        self.clients: dict[str, dict[str, Any]] = {}
        self.codes: dict[str, dict[str, str]] = {}
        self.refreshable: dict[str, dict[str, str]] = {}
        self.tokens: dict[str, dict[str, str]] = {}
        self.asked: list[str] = []
        """Paths, in order."""
        self.requests: list[dict[str, str]] = []
        """Of the authorization endpoint."""
        self.forms: list[dict[str, str]] = []
        """Of the token endpoint."""
        self.instead: dict[str, Any] = {}
        """Path → function that answers in its place."""

    @property
    def issuer(self) -> str:
        return self.base + self.path

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/{rest:path}", self.serve, methods=["GET", "POST"])])

    async def serve(self, request: Request) -> Response:
        path = request.url.path
        self.asked.append(path)
        if path in self.instead:
            return await self.instead[path](request)
        match path.removeprefix(self.path) if path.startswith(self.path) else path:
            case "/authorize":
                return self.authorize(request)
            case "/token":
                return await self.redeem(request)
            case "/register":
                return await self.register(request)
        if path == f"/.well-known/oauth-authorization-server{self.path}":
            return JSONResponse(self.metadata())
        return Response(status_code=404)

    def metadata(self) -> dict[str, Any]:
        usual = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "registration_endpoint": f"{self.issuer}/register",
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": self.methods,
            "authorization_response_iss_parameter_supported": True,
        }
        return {**usual, **self.about}

    async def register(self, request: Request) -> Response:
        asked = json.loads(await request.body())
        client = {
            "client_id": f"client-{len(self.clients) + 1}",
            "client_secret": secrets.token_urlsafe(8) + ":/",
            **asked,
        }
        if asked["token_endpoint_auth_method"] == "none":
            del client["client_secret"]
        self.clients[client["client_id"]] = client
        return JSONResponse(client, status_code=201)

    def authorize(self, request: Request) -> Response:
        query = dict(request.query_params)
        self.requests.append(query)
        client = self.clients.get(query["client_id"])
        if client is None or query["redirect_uri"] not in client["redirect_uris"]:
            return Response("who are you", status_code=400)
        assert query["response_type"] == "code"
        assert query["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(8)
        self.codes[code] = query
        answer = {"code": code, "state": query["state"], "iss": self.issuer, **self.answer}
        said = urlencode({name: value for name, value in answer.items() if value is not None})
        return RedirectResponse(f"{query['redirect_uri']}?{said}", status_code=302)

    async def redeem(self, request: Request) -> Response:
        form = {name: one[0] for name, one in parse_qs((await request.body()).decode()).items()}
        self.forms.append(form)
        client = self._client(request, form)
        if client is None:
            return JSONResponse({"error": "invalid_client"}, status_code=401)
        match form["grant_type"]:
            case "authorization_code":
                begun = self.codes.pop(form["code"], None)
                if begun is None or not _proves(form, begun):
                    return JSONResponse({"error": "invalid_grant"}, status_code=400)
            case "refresh_token":
                begun = self.refreshable.pop(form["refresh_token"], None)
                if begun is None:
                    return JSONResponse({"error": "invalid_grant"}, status_code=400)
            case _:
                begun = form
        if form.get("resource") != begun.get("resource"):
            return JSONResponse({"error": "invalid_target"}, status_code=400)
        access, refresh = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
        self.tokens[access] = begun
        self.refreshable[refresh] = begun
        said = {"access_token": access, "token_type": "Bearer", "expires_in": 3600,
                "refresh_token": refresh}  # fmt: skip
        said = {name: one for name, one in {**said, **self.token}.items() if one is not None}
        return JSONResponse(said)

    def _client(self, request: Request, form: dict[str, str]) -> dict[str, Any] | None:
        kind, _, pair = request.headers.get("authorization", "").partition(" ")
        method, name, secret = "none", form.get("client_id", ""), ""
        if kind == "Basic":
            method = "client_secret_basic"
            name, secret = map(unquote, base64.b64decode(pair).decode().split(":"))
        elif "client_secret" in form:
            method, secret = "client_secret_post", form["client_secret"]
        client = self.clients.get(name)
        if client is None or client.get("client_secret", "") != secret:
            return None
        return client if client["token_endpoint_auth_method"] == method else None


def _proves(form: dict[str, str], begun: dict[str, str]) -> bool:
    digest = hashlib.sha256(form["code_verifier"].encode()).digest()
    right = base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == begun["code_challenge"]
    return right and form["redirect_uri"] == begun["redirect_uri"]


class Guard:
    """A scripted MCP server that wants tokens of an authority.

    Attributes:
        scopes: needed, by method; ``*`` = of every other.
        about: its protected resource metadata; None = it has none.
        pointer: ``resource_metadata`` of its challenge; "" = none.
        challenge: scope of the challenge of a 401.
    """

    def __init__(self, inner: Any, authority: Authority) -> None:
        self.inner = inner
        self.authority = authority
        self.base = ""
        self.scopes: dict[str, str] = {}
        self.about: dict[str, Any] | None = {}
        self.pointer = ""
        self.challenge = ""
        self.place = "/.well-known/oauth-protected-resource/mcp"
        self.revoked: set[str] = set()
        self.refused: list[int] = []

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/mcp", self.serve, methods=["GET", "POST", "DELETE"]),
                Route("/{rest:path}", self.other, methods=["GET", "POST"]),
            ]
        )

    async def other(self, request: Request) -> Response:
        if self.about is None:
            return await self.authority.serve(request)
        if request.url.path != self.place:
            return Response(status_code=404)
        usual = {
            "resource": f"{self.base}/mcp",
            "authorization_servers": [self.authority.issuer],
        }
        return JSONResponse({**usual, **self.about})

    async def serve(self, request: Request) -> Response:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        begun = self.authority.tokens.get(token)
        if begun is None or token in self.revoked:
            return self._refuse(401, self.challenge)
        if request.method == "POST":
            method = json.loads(await request.body()).get("method", "")
            needed = self.scopes.get(method, self.scopes.get("*", ""))
            if not set(needed.split()) <= set(begun.get("scope", "").split()):
                return self._refuse(403, needed)
        return await self.inner.serve(request)

    def _refuse(self, status: int, scope: str) -> Response:
        self.refused.append(status)
        said = ['error="insufficient_scope"'] if status == 403 else []
        said += [f'scope="{scope}"'] if scope else []
        said += [f'resource_metadata="{self.pointer}"'] if self.pointer else []
        challenge = f"Bearer {', '.join(said)}".strip()
        return Response("no", status_code=status, headers={"www-authenticate": challenge})


def base_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


async def hanging(_request: Request) -> Response:
    await asyncio.sleep(3600)
    return Response()


def huge(_text: str = "") -> Any:
    async def answer(_request: Request) -> Response:
        return Response(b'{"x":"' + b"x" * 200_000 + b'"}', media_type="application/json")

    return answer


def says(status: int, body: Any = None, **headers: str) -> Any:
    """An answer in place of the usual one."""

    async def answer(_request: Request) -> Response:
        if isinstance(body, str):
            return Response(body, status_code=status, headers=headers)
        return JSONResponse(body, status_code=status, headers=headers)

    return answer


class Scene:
    """An MCP server behind a guard, and the authorization server that it trusts."""

    def __init__(self, net: Any, inner: Any) -> None:
        self.net = net
        self.inner = inner
        self.authority = Authority()
        self.guard: Any = None
        self.url = ""
        self.upstream: Any = None

    async def set(self) -> "Scene":
        self.guard = Guard(self.inner, self.authority)
        self.authority.base = base_of(await self.net.scripted(self.authority))
        self.url = await self.net.scripted(self.guard)
        self.guard.base = base_of(self.url)
        return self

    async def start(self, **fields: Any) -> Any:
        more = {"allow_private": ("127.0.0.1",), **fields.pop("definition", {})}
        oauth = OAuthClient(**{"grant": "authorization_code", **fields})
        self.upstream = await self.net.started(self.url, oauth=oauth, **more)
        return self.upstream

    async def refused(self, said: str, **fields: Any) -> MeshError:
        """The start fails, nothing ran, and the reason is public."""
        with pytest.raises(MeshError, match=said) as caught:
            await self.start(**fields)
        assert caught.value.kind is ErrorKind.UPSTREAM
        assert caught.value.outcome is Outcome.NOT_EXECUTED
        assert self.inner.heads == []
        return caught.value

    @property
    def credential(self) -> Any:
        return self.upstream._link.credential

    def known(self, **fields: Any) -> None:
        """Register a client by hand."""
        usual = {
            "client_id": "me", "client_secret": "s:cret/",
            "token_endpoint_auth_method": "client_secret_basic",
            "redirect_uris": ["http://127.0.0.1:33418/callback"],
        }  # fmt: skip
        self.authority.clients["me"] = {**usual, **fields}
