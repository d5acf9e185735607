"""Where a request goes: from the name a client uses to the server that owns it.

An ``Offer`` is everything one server has, renamed once and shared by all tenants; a ``Table`` is
what one tenant can reach, with reverse maps. Both are rebuilt when a catalogue changes and never
change themselves, so a call reads them without a lock and a decision may be cached with them.

Names: bare for built-in toolsets and servers mounted without a prefix, ``server__tool`` for every
other server, and the alias ``server:tool`` on input for all. Not here: who may use what
(``access``), what a list looks like (``merge``).
"""

from collections.abc import Iterable, Sequence
from urllib.parse import quote

import msgspec

from gateway.core.abilities import Abilities, read_abilities
from gateway.core.apps import relinked_app
from gateway.core.paramheaders import ParamHeader, param_headers
from gateway.core.templates import UriPattern, uri_pattern
from gateway.core.toolargs import ArgumentRules
from mcp_proto import subjects
from mcp_proto.contracts.registry import Catalog
from mcp_proto.contracts.tasks import TASK_META, policy_of
from mcp_proto.limits import TOOLS_PER_TENANT_MAX
from mcp_proto.names import listed_name
from mcp_proto.types.meta import SKILLS_EXTENSION, TASKS_EXTENSION

__all__ = ["Item", "Offer", "Route", "Table", "Template", "Tool", "offer", "renamed"]

URI_CHARS_MAX = 4_096
"""Longest resource URI matched against templates: the match is linear, the bound keeps it small."""

BUILT_IN, PREFIXED, MOUNTED = 0, 1, 2
"""Ranks: a name must not change because a server without a prefix arrives."""

_NO_TEXT = frozenset({b"", b"null", b'""'})
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt or resource of one server.

    Attributes:
        listed: name (prompts) or URI (resources) as clients see it.
        server: owner; decides the subject.
        name: the owner's own name or URI.
        entry: the definition as listed.
        permission: needed beside the tool rules; "" = what a tool without one needs.
    """

    listed: str
    server: str
    name: str
    entry: bytes
    permission: str = ""


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool of one server.

    ``permission`` "" = the tool rules alone decide; ``timeout_s`` 0 = the gateway's default;
    ``arguments`` is what a virtual server fixes of them.
    """

    listed: str
    server: str
    name: str
    permission: str
    entry: bytes
    headers: tuple[ParamHeader, ...] = ()
    timeout_s: float = 0.0
    task: str = "optional"
    own_tasks: bool = False
    arguments: ArgumentRules | None = None


class Template(msgspec.Struct, frozen=True, kw_only=True):
    """A resource template; ``pattern`` matches the URIs it makes, ``permission`` as in ``Item``.

    ``added`` characters in front, of the text and of those URIs, are the gateway's.
    """

    listed: str
    server: str
    pattern: UriPattern
    entry: bytes
    permission: str = ""
    added: int = 0

    @property
    def own(self) -> str:
        """The template as its server wrote it."""
        return self.listed[self.added :]


class Route(msgspec.Struct, frozen=True, gc=False):
    """Where a request goes: subject, owner, and the owner's own name of what is meant.

    ``name`` stands in a header and is "" where it would be too long; ``about`` is always whole.
    """

    subject: str
    server: str
    name: str
    about: str


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one server offers, as it is listed.

    ``capabilities`` are the names of the server's capabilities, ``server_info`` its own
    ``Implementation`` object; where names collide, those of the lowest ``rank`` stay.
    """

    server: str
    tools: tuple[Tool, ...]
    prompts: tuple[Item, ...]
    resources: tuple[Item, ...]
    templates: tuple[Template, ...]
    capabilities: frozenset[str]
    instructions: str
    unreadable: int
    server_info: bytes = b"{}"
    rank: int = PREFIXED
    tenant: str = subjects.PLATFORM
    abilities: Abilities = Abilities()
    ttls_ms: dict[str, int] = {}


def offer(catalog: Catalog) -> Offer:
    """Rename a catalogue for the lists; entries that cannot be read are left out and counted."""
    server = catalog.server
    unreadable = 0
    own_tasks = TASKS_EXTENSION.encode() in bytes(catalog.capabilities)
    tools: list[Tool] = []
    for tool in catalog.tools:
        name = listed_name(server, tool.name) if catalog.prefixed else tool.name
        entry = renamed(tool.definition, "name", name, describe=f"{tool.name} of {server}")
        if entry is None:
            unreadable += 1
            continue
        policy = policy_of(catalog.tasks, tool.name)
        if policy != "optional":
            entry = _with_policy(entry, policy)
        tools.append(
            Tool(
                listed=name,
                server=server,
                name=tool.name,
                permission=tool.permission,
                entry=entry,
                headers=param_headers(tool.definition),
                timeout_s=catalog.timeout_s,
                task=policy,
                own_tasks=own_tasks,
            )
        )
    prompts = _items(server, catalog.prompts, "name", prefixed=catalog.prefixed)
    needed = catalog.resource_permission
    resources = _items(server, catalog.resources, "uri", prefixed=False, permission=needed)
    templates = _templates(server, catalog.resource_templates, needed)
    given = len(catalog.prompts) + len(catalog.resources) + len(catalog.resource_templates)
    return Offer(
        server=server,
        tools=tuple(tools),
        prompts=prompts,
        resources=resources,
        templates=templates,
        capabilities=_keys(catalog.capabilities),
        instructions=catalog.instructions,
        unreadable=unreadable + given - len(prompts) - len(resources) - len(templates),
        server_info=bytes(catalog.server_info),
        rank=PREFIXED if catalog.prefixed else MOUNTED if catalog.mounted else BUILT_IN,
        tenant=catalog.tenant,
        abilities=read_abilities(catalog.capabilities),
        ttls_ms=catalog.ttls_ms,
    )


def _shares(offers: Sequence[Offer]) -> dict[int, int]:
    """Tools each offer (by ``id``) may list where all together are too many; {} where they are not.

    Max-min fair: whoever has less than an equal part keeps all, and leaves the rest to the others.
    """
    left = TOOLS_PER_TENANT_MAX
    if sum(len(one.tools) for one in offers) <= left:
        return {}
    shares: dict[int, int] = {}
    fewest_first = sorted(offers, key=lambda one: (len(one.tools), one.server))
    for at, one in enumerate(fewest_first):
        shares[id(one)] = min(len(one.tools), left // (len(offers) - at))
        left -= shares[id(one)]
    return shares


class Table:
    """What one tenant can reach, by every name a client may use.

    Where two servers have one URI, the first by server name keeps it and the others are listed
    as ``mesh://{server}/{escaped URI}``, templates as ``mesh://{server}/`` and their text; a
    tool or prompt name that is taken is left out and counted in ``hidden``. Where all tools
    together are too many, the servers with the most of them list fewer, so that one with
    thousands pushes out nobody's few. Built-in names come first, then prefixed ones, which only
    an over-long or odd name can take from each other, then those of servers mounted without a
    prefix.

    Args:
        tenant: whose table.
        offers: servers.
        aliases: False = no ``server:tool``; where one tool stands twice, it would name either.
        barred: URIs that no template reaches.
    """

    def __init__(
        self,
        tenant: str,
        offers: Iterable[Offer],
        *,
        aliases: bool = True,
        barred: frozenset[str] = frozenset(),
    ) -> None:
        self.tenant = tenant
        self._aliases = aliases
        self._barred = barred
        self.offers = tuple(sorted(offers, key=lambda one: one.server))
        self.tools: dict[str, Tool] = {}
        self.prompts: dict[str, Item] = {}
        self.resources: dict[str, Item] = {}
        self.templates: list[Template] = []
        self.relisted: dict[str, dict[str, str]] = {}
        """By server: its URIs that are listed under another one → that one."""
        self.skilled = any(SKILLS_EXTENSION in one.abilities.extensions for one in self.offers)
        """Whether any server has skills, whose files need not be listed."""
        self.hidden = 0
        self._tool_pairs: dict[str, Tool] = {}
        self._prompt_pairs: dict[str, Item] = {}
        self._routes: dict[str, Route] = {}
        shares = _shares(self.offers)
        for one in sorted(self.offers, key=lambda one: one.rank):
            self._add_names(one, shares.get(id(one), TOOLS_PER_TENANT_MAX))
        for one in self.offers:
            self._add_uris(one)
        if self.relisted:
            self._relink_apps()
        # The most literal template wins, so that a catch-all of one server hides no other.
        self.templates.sort(key=lambda one: (-one.pattern.literal_chars, one.listed, one.server))

    def _add_names(self, one: Offer, share: int) -> None:
        for tool in one.tools:
            full = share <= 0 or len(self.tools) >= TOOLS_PER_TENANT_MAX
            if full or tool.listed in self.tools:
                self.hidden += 1
                continue
            share -= 1
            self.tools[tool.listed] = tool
            if self._aliases:
                self._tool_pairs[f"{tool.server}:{tool.name}"] = tool
        for prompt in one.prompts:
            if prompt.listed in self.prompts:
                self.hidden += 1
                continue
            self.prompts[prompt.listed] = prompt
            if self._aliases:
                self._prompt_pairs[f"{prompt.server}:{prompt.name}"] = prompt

    def _add_uris(self, one: Offer) -> None:
        for resource in one.resources:
            uri = resource.listed
            if uri in self.resources:
                uri = f"mesh://{one.server}/{quote(uri, safe='')}"
                entry = renamed(resource.entry, "uri", uri)
                if entry is None or uri in self.resources:
                    self.hidden += 1
                    continue
                self.resources[uri] = msgspec.structs.replace(resource, listed=uri, entry=entry)
            else:
                self.resources[uri] = resource
            if uri != resource.name:
                self.relisted.setdefault(one.server, {})[resource.name] = uri
        taken = {template.listed for template in self.templates}
        for template in one.templates:
            shown = _moved(template) if template.listed in taken else template
            if shown is not None:
                self.templates.append(shown)
            else:
                self.hidden += 1

    def _relink_apps(self) -> None:
        """A tool that names a resource of its server names it as it is listed."""
        for name, tool in self.tools.items():
            names = self.relisted.get(tool.server)
            entry = relinked_app(tool.entry, names) if names else tool.entry
            if entry is not tool.entry:
                made = self.tools[name] = msgspec.structs.replace(tool, entry=entry)
                if self._aliases:
                    self._tool_pairs[f"{tool.server}:{tool.name}"] = made

    @property
    def vacant(self) -> bool:
        """Whether nothing at all is in it."""
        return not (self.tools or self.prompts or self.resources or self.templates)

    def tool(self, name: str) -> Tool | None:
        """Find a tool by listed name, bare name or ``server:tool``."""
        return self.tools.get(name) or self._tool_pairs.get(name)

    def prompt(self, name: str) -> Item | None:
        """Find a prompt by listed name or ``server:prompt``."""
        return self.prompts.get(name) or self._prompt_pairs.get(name)

    def resource(self, uri: str) -> Item | None:
        """Find the owner of a URI: listed, or made by a template."""
        known = self.resources.get(uri)
        if known is not None:
            return known
        if len(uri) > URI_CHARS_MAX or uri in self._barred:
            return None
        for template in self.templates:
            if template.pattern.matches(uri):
                return Item(
                    listed=uri,
                    server=template.server,
                    name=uri[template.added :],
                    entry=b"",
                    permission=template.permission,
                )
        return None

    def template(self, uri_template: str) -> Template | None:
        """Find a template by its text (``ref/resource`` of a completion)."""
        return next((one for one in self.templates if one.listed == uri_template), None)

    def call_route(self, tool: Tool) -> Route:
        """Where a call of ``tool`` goes for this tenant.

        Raises:
            MeshError: ``too_large`` when the encoded name does not fit into a subject.
        """
        route = self._routes.get(tool.listed)
        if route is None:
            subject = subjects.call(self.tenant, tool.server, tool.name)
            route = self._routes[tool.listed] = Route(subject, tool.server, tool.name, tool.name)
        return route


def _items(
    server: str,
    raws: Iterable[msgspec.Raw],
    key: str,
    *,
    prefixed: bool,
    permission: str = "",
) -> tuple[Item, ...]:
    found: list[Item] = []
    for raw in raws:
        name = _text(raw, key)
        if name is None:
            continue
        listed = listed_name(server, name) if prefixed else name
        entry = renamed(raw, key, listed)
        if entry is not None:
            found.append(
                Item(listed=listed, server=server, name=name, entry=entry, permission=permission)
            )
    return tuple(found)


def _templates(server: str, raws: Iterable[msgspec.Raw], permission: str) -> tuple[Template, ...]:
    found: list[Template] = []
    for raw in raws:
        text = _text(raw, "uriTemplate")
        if text is None or len(text) > URI_CHARS_MAX:
            continue
        found.append(
            Template(
                listed=text,
                server=server,
                pattern=uri_pattern(text),
                entry=bytes(raw),
                permission=permission,
            )
        )
    return tuple(found)


def _moved(template: Template) -> Template | None:
    """A template whose text another server has, where nobody else is; None = it gets too long.

    Its text stays as it is behind the gateway's: what it makes is taken apart by cutting that off.
    """
    front = f"mesh://{template.server}/"
    listed = front + template.listed
    entry = renamed(template.entry, "uriTemplate", listed)
    if entry is None or len(listed) > URI_CHARS_MAX:
        return None
    return msgspec.structs.replace(
        template, listed=listed, pattern=uri_pattern(listed), entry=entry, added=len(front)
    )


def _text(raw: msgspec.Raw, key: str) -> str | None:
    try:
        value = _MEMBERS.decode(raw).get(key)
        text = None if value is None else msgspec.json.decode(value, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return text or None


def renamed(raw: msgspec.Raw | bytes, key: str, value: str, *, describe: str = "") -> bytes | None:
    """``raw`` with ``key`` set to ``value``, all else byte for byte; None if it is no object."""
    try:
        members = _MEMBERS.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    members[key] = msgspec.Raw(msgspec.json.encode(value))
    if describe and bytes(members.get("description", b"")) in _NO_TEXT:
        members["description"] = msgspec.Raw(msgspec.json.encode(describe))
    return msgspec.json.encode(members)


def _with_policy(entry: bytes, policy: str) -> bytes:
    """Say in the list how a tool runs, where that is not as usual: edges and people read it."""
    members = _MEMBERS.decode(entry)
    try:
        meta = _MEMBERS.decode(members.get("_meta", msgspec.Raw(b"{}")))
    except (msgspec.DecodeError, UnicodeDecodeError):
        meta = {}
    meta[TASK_META] = msgspec.Raw(msgspec.json.encode(policy))
    members["_meta"] = msgspec.Raw(msgspec.json.encode(meta))
    return msgspec.json.encode(members)


def _keys(raw: msgspec.Raw) -> frozenset[str]:
    try:
        return frozenset(_MEMBERS.decode(raw))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return frozenset()
