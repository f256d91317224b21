"""Turns a view into HTML or JSON, as the request asks; the words for times and counts in HTML."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from hashlib import sha256
from importlib.resources import files
from typing import Final
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from worker.text import exact, minute, roughly
from worker.web.pages.numbers import Numbers
from worker.wording.documents import plain

CONTENT_TYPES: Final = {
    "style.css": "text/css; charset=utf-8",
    "htmx.min.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

STATIC: Final = {name: files("worker.web.pages").joinpath("static", name).read_bytes() for name in CONTENT_TYPES}
"""The page's own files: it asks nobody else for any."""

VERSIONS: Final = {name: sha256(content).hexdigest()[:12] for name, content in STATIC.items()}

HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept, Authorization",
    "X-Content-Type-Options": "nosniff",
}


WHOLE: Final = ("numbers", "whole")
"""In an address: phone numbers are shown whole."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What a page shows: values for its template, and the same as a JSON document."""

    template: str
    title: str
    command: str
    """The command that says the same."""
    context: Mapping[str, object]
    document: Mapping[str, object]
    status: int = 200
    refreshed_seconds: int | None = None
    """How often the page asks again; None: it stays as it is."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One request for a page: when, in which zone, and how phone numbers are shown."""

    request: Request
    now: datetime
    zone: tzinfo
    numbers: Numbers
    may_show_numbers: bool
    """Whether there is a password that shows whole phone numbers."""
    errors: list[str] = field(default_factory=list)
    """What is wrong with the address, a line each."""

    def link(self, path: str, **values: object) -> str:
        """An address of the page; whole phone numbers stay shown. Lists repeat their name, and None is left out."""
        pairs = [
            (name, str(item))
            for name, value in values.items()
            for item in (value if isinstance(value, list | tuple) else [value])
            if item is not None and item != ""
        ]
        if self.numbers.are_shown:
            pairs.append(WHOLE)
        return _address(path, pairs)

    def here(self) -> str:
        """This address."""
        return _address(self._path, self.request.query_params.multi_items())

    def toggle(self) -> str:
        """This address, with phone numbers shown the other way."""
        pairs = [pair for pair in self.request.query_params.multi_items() if pair[0] != WHOLE[0]]
        return _address(self._path, pairs if self.numbers.are_shown else [*pairs, WHOLE])

    @property
    def _path(self) -> str:
        return quote(self.request.url.path)


def respond(view: View, reading: Reading) -> Response:
    """The view as the request asks for it: JSON if it accepts that and no HTML."""
    if wants_json(reading.request):
        body = json.dumps(view.document, default=plain, ensure_ascii=False, indent=2) + "\n"
        return Response(body, view.status, headers=HEADERS | {"Content-Type": "application/json; charset=utf-8"})
    html = _TEMPLATES.get_template(view.template).render(
        view.context,
        view=view,
        reading=reading,
        link=reading.link,
        numbers=reading.numbers,
        versions=VERSIONS,
    )
    return HTMLResponse(html, view.status, headers=HEADERS)


def wants_json(request: Request) -> bool:
    """Whether a request asks for JSON; a browser asks for HTML."""
    accepted = request.headers.get("accept", "")
    return "application/json" in accepted and "text/html" not in accepted


def _address(path: str, pairs: Sequence[tuple[str, str]]) -> str:
    return f"{path}?{urlencode(pairs, quote_via=quote)}" if pairs else path


@pass_context
def _time(context: Context, moment: datetime | None, if_none: str = "-") -> Markup | str:
    """A timestamp in the reader's zone, with UTC on hover."""
    if moment is None:
        return if_none
    reading: Reading = context["reading"]
    return _time_element(moment, minute(moment, reading.zone))


@pass_context
def _second(context: Context, moment: datetime) -> Markup:
    """A timestamp to the second in the reader's zone, with UTC on hover."""
    reading: Reading = context["reading"]
    return _time_element(moment, exact(moment, reading.zone))


@pass_context
def _ago(context: Context, moment: datetime | None, if_none: str = "never") -> Markup | str:
    """How long ago, or in how long, with the timestamp on hover."""
    if moment is None:
        return if_none
    reading: Reading = context["reading"]
    length = roughly(reading.now - moment)
    words = f"in {length}" if moment > reading.now else f"{length} ago"
    return _time_element(moment, words)


def _time_element(moment: datetime, words: str) -> Markup:
    in_utc = f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(moment.isoformat(), in_utc, words)


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("worker.web.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(time=_time, second=_second, ago=_ago, count=_count)
    return environment


_TEMPLATES: Final = _environment()
