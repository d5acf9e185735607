"""``Agent``: what the person who writes one sees.

Everything is said by decorators and constructors before it runs; ``run`` serves until the
process is told to stop, ``running`` serves inside a program that has a loop of its own.
"""

import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, overload

from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.ids import is_server_name
from mcp_proto.names import RESERVED_SERVERS
from mesh_chassis.config import ConfigError
from mesh_chassis.service import Service
from mesh_sdk.agent.config import AgentConfig
from mesh_sdk.agent.middleware import Middleware
from mesh_sdk.agent.offers import Completer, Prompt, Resource, Tool
from mesh_sdk.agent.process import Described, Live, attach, config_of, live
from mesh_sdk.agent.serving import Offered
from mesh_sdk.agent.topics import SUBSCRIPTIONS_MAX, Listener

__all__ = ["Agent"]

F = TypeVar("F", bound=Callable[..., Any])
Hook = Callable[[], Awaitable[None]]


class Agent:
    """A program that serves tools, resources and prompts on the mesh.

    Start it as often as you like: all copies share the calls.

    Args:
        name: server name; its tools are listed as ``name__tool``.
        description: instructions for models; "" = none.
        version: of the agent, for lists.
        tenant: whose agent; "" = that of the mesh found (``MESH_TENANT``).
        url: broker; "" = look for it (``mesh_sdk.connect``).
        instance: id of this copy and its broker user; "" = a free one of a local mesh, or
            ``MESH_INSTANCE``.
        concurrency: calls that run at once; more are refused, so that other copies take them.
        threads: plain functions that run at once.

    Raises:
        ValueError: the name cannot be a server name.
    """

    def __init__(
        self,
        name: str,
        *,
        description: str = "",
        version: str = "0.1.0",
        tenant: str = "",
        url: str = "",
        instance: str = "",
        concurrency: int = 256,
        threads: int = 32,
    ) -> None:
        if not is_server_name(name) or name in RESERVED_SERVERS:
            raise ValueError(
                f"{name!r} cannot be the name of an agent: 1 to 40 letters, digits, '_', '-' or "
                "'.', no '__', no '_' at the end, and not a reserved name"
            )
        self.name = name
        self.description = description
        self.version = version
        self._tenant = tenant
        self._url = url
        self._instance = instance
        self._concurrency = concurrency
        self._threads = threads
        self._tools: dict[str, Tool] = {}
        self._resources: list[Resource] = []
        self._prompts: dict[str, Prompt] = {}
        self._completers: dict[tuple[str, str], Completer] = {}
        self._middlewares: list[Middleware] = []
        self._listeners: list[Listener] = []
        self._on_start: list[Hook] = []
        self._on_stop: list[Hook] = []
        self._live: Live | None = None

    # Tools, resources, prompts

    @overload
    def tool(self, function: F) -> F: ...

    @overload
    def tool(self, **options: Any) -> Callable[[F], F]: ...

    def tool(self, function: Any = None, *, name: str = "", **options: Any) -> Any:
        """Serve a function as a tool: ``@agent.tool`` or ``@agent.tool(name="…", …)``.

        Its parameters become the input schema, its return type the output schema, its docstring
        the descriptions. A parameter annotated ``Context`` gets the context.

        Args:
            function: plain or ``async``.
            name: "" = that of the function.
            options: ``description``, ``title``, ``permission``, ``read_only``, ``destructive``,
                ``idempotent``, ``open_world``, ``timeout_s``, ``thread``; see ``Tool``.

        Raises:
            TypeError: its signature cannot be served.
            ValueError: there is a tool of this name.
        """
        description = options.pop("description", "")

        def add(given: F) -> F:
            self.add_tool(Tool(name or _name(given), description, None, given, **options))
            return given

        return add(function) if function is not None else add

    def add_tool(self, tool: Tool) -> None:
        """Serve a tool.

        Raises:
            ValueError: there is one of this name.
        """
        self._unstarted()
        if tool.name in self._tools:
            raise ValueError(f"two tools are named {tool.name}")
        self._tools[tool.name] = tool

    def resource(self, uri: str, *, name: str = "", **options: Any) -> Callable[[F], F]:
        """Serve what a function gives as a resource: ``@agent.resource("weather://stations")``.

        With a template (``weather://{city}/now``) the function takes the parts that vary.

        Args:
            uri: URI or template.
            name: for lists; "" = that of the function.
            options: ``title``, ``description``, ``mime_type``, ``metadata``, ``resource_type``,
                ``thread``; see ``Resource``.

        Raises:
            TypeError, ValueError: see ``Resource``.
        """
        kind = options.pop("resource_type", "")
        metadata = options.pop("metadata", None)

        def add(given: F) -> F:
            self.add_resource(
                Resource(name or _name(given), kind, uri, metadata, handler=given, **options)
            )
            return given

        return add

    def add_resource(self, resource: Resource) -> None:
        """Serve a resource.

        Raises:
            ValueError: there is one of this URI.
        """
        self._unstarted()
        if any(one.uri == resource.uri for one in self._resources):
            raise ValueError(f"two resources have the URI {resource.uri}")
        # One with a fixed URI comes before a template that also matches it.
        at = 0 if resource.template is None else len(self._resources)
        self._resources.insert(at, resource)

    @overload
    def prompt(self, function: F) -> F: ...

    @overload
    def prompt(self, **options: Any) -> Callable[[F], F]: ...

    def prompt(self, function: Any = None, *, name: str = "", **options: Any) -> Any:
        """Serve a function as a prompt; it gives text or messages, its parameters are arguments.

        Raises:
            TypeError: its signature cannot be served.
            ValueError: there is a prompt of this name.
        """

        def add(given: F) -> F:
            self.add_prompt(Prompt(name or _name(given), given, **options))
            return given

        return add(function) if function is not None else add

    def add_prompt(self, prompt: Prompt) -> None:
        """Serve a prompt.

        Raises:
            ValueError: there is one of this name.
        """
        self._unstarted()
        if prompt.name in self._prompts:
            raise ValueError(f"two prompts are named {prompt.name}")
        self._prompts[prompt.name] = prompt

    def completion(self, of: str, argument: str) -> Callable[[F], F]:
        """Offer values for an argument of a prompt (by name) or a resource template (by URI).

        The function takes ``value``, what has been typed, and may take ``arguments``, those chosen
        already; it gives a list of texts.
        """

        def add(given: F) -> F:
            self._unstarted()
            self._completers[of, argument] = Completer(given, of, argument)
            return given

        return add

    # Around the calls

    def use(self, middleware: Middleware) -> Middleware:
        """Put a middleware around every call; the first added is the outermost."""
        self._unstarted()
        self._middlewares.append(middleware)
        return middleware

    def on_start(self, hook: Hook) -> Hook:
        """Run ``async`` code before the first call: open connections, load models."""
        self._unstarted()
        self._on_start.append(hook)
        return hook

    def on_stop(self, hook: Hook) -> Hook:
        """Run ``async`` code after the last call."""
        self._unstarted()
        self._on_stop.append(hook)
        return hook

    # Events

    @overload
    def subscribe(self, topic: str, handler: F, *, every_copy: bool = False) -> F: ...

    @overload
    def subscribe(self, topic: str, *, every_copy: bool = False) -> Callable[[F], F]: ...

    def subscribe(self, topic: str, handler: Any = None, *, every_copy: bool = False) -> Any:
        """Hear events of the tenant: ``@agent.subscribe("tasks:high_priority")``.

        The function takes the value, or an ``Event`` with topic and source. Live: what is sent
        while no copy runs is read with the tools ``events_*``.

        Args:
            topic: the topic, or with ``*`` for any text inside it.
            handler: plain or ``async``; None = this is a decorator.
            every_copy: each copy of the agent hears each event; else one of them does.

        Raises:
            TypeError: the function takes more than the value.
        """

        def add(given: F) -> F:
            self._unstarted()
            if len(self._listeners) >= SUBSCRIPTIONS_MAX:
                raise ValueError(f"an agent listens to at most {SUBSCRIPTIONS_MAX} topics")
            self._listeners.append(Listener(topic, given, every_copy=every_copy))
            return given

        return add(handler) if handler is not None else add

    async def publish(self, topic: str, value: object) -> None:
        """Send an event of the tenant; the toolset ``events`` keeps it.

        Raises:
            MeshError: ``bus`` unless the agent runs and is connected.
        """
        await self._running().publish(topic, value)

    async def updated(self, uri: str) -> None:
        """Tell whoever watches a resource that it changed.

        Raises:
            MeshError: ``bus`` unless the agent runs and is connected.
        """
        await self._running().updated(uri)

    # Life

    def run(self, *, reload: bool = False, replace: bool = False) -> None:
        """Serve until the process is told to stop; never returns, leaves with an exit code.

        Where another agent of the name offers something else, this one waits until that is gone.

        Args:
            replace: take the name over instead; the others stop taking calls within a minute.
            reload: start anew whenever a file beside the program changes. The new process takes
                calls before the old one lets go, so none is lost. For development.
        """
        # Here: a program that only describes an agent needs neither.
        from mesh_sdk.agent import reloading  # noqa: PLC0415

        if reload and not reloading.is_child():
            script = Path(sys.argv[0]).resolve()
            raise SystemExit(reloading.develop([sys.executable, *sys.argv], script.parent))
        from mesh_chassis import runtime  # noqa: PLC0415

        try:
            config = self._config(replace=replace)
        except ConfigError as error:
            sys.stderr.write(f"{self.name}: {error}\n")
            raise SystemExit(runtime.EXIT_CONFIG) from None

        async def build(service: Service, loaded: AgentConfig) -> None:
            self._live = await attach(service, loaded, self.described())
            service.on_ready(reloading.tell_ready(self._live))

        runtime.serve(build, config, "agent", version=self.version)

    @asynccontextmanager
    async def running(
        self, *, drain_s: float = 5.0, replace: bool = False
    ) -> AsyncGenerator[Live, None]:
        """Serve on the running loop for the length of an ``async with`` block.

        Args:
            drain_s: longest wait for running calls at its end.
            replace: as for ``run``; without it a name that another agent holds is an error here.

        Raises:
            ConfigError: no mesh, or no free broker user.
            MeshError: how the bus failed; ``params`` when the registry refuses the agent.
        """
        around = live(
            self.described(),
            url=self._url,
            tenant=self._tenant,
            instance=self._instance,
            concurrency=self._concurrency,
            threads=self._threads,
            replace=replace,
            drain_s=drain_s,
        )
        async with around as made:
            self._live = made
            try:
                yield made
            finally:
                self._live = None

    def described(self) -> Described:
        """Everything said so far, as it is served."""
        return Described(
            name=self.name,
            version=self.version,
            description=self.description,
            offered=Offered(
                tools=dict(self._tools),
                resources=tuple(self._resources),
                prompts=dict(self._prompts),
                completers=dict(self._completers),
                middlewares=tuple(self._middlewares),
            ),
            listeners=tuple(self._listeners),
            on_start=tuple(self._on_start),
            on_stop=tuple(self._on_stop),
        )

    def _config(self, *, replace: bool) -> AgentConfig:
        # Imported here as below: what runs is found when it runs.
        from mesh_sdk.connect import find, take_seat  # noqa: PLC0415

        found = find(self._url)
        seat = take_seat(found, instance=self._instance)
        return config_of(
            found,
            seat,
            tenant=self._tenant,
            concurrency=self._concurrency,
            threads=self._threads,
            replace=replace,
        )

    def _running(self) -> Live:
        if self._live is None:
            raise MeshError(ErrorKind.BUS, f"agent {self.name} does not run")
        return self._live

    def _unstarted(self) -> None:
        if self._live is not None:
            raise RuntimeError("the agent runs already; say everything before it does")


def _name(function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", "")
    if not name or name == "<lambda>":
        raise TypeError("a function without a name needs name=…")
    return name
