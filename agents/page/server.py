"""The page over HTTP: loopback only, plain HTML without any script.

It is for the browser that opened the one-time link.

Every answer carries a strict Content-Security-Policy. A request for another Host than
this address is refused, so that no website can lead a browser here under a name of its
own; what changes anything is a form with a token (decision 47). Who may enter is
agents.page.door's; what the tables hold, agents.page.tables'.

Decision 47.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import uvicorn
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from agents.gate.round_budget import RoundBudget
from agents.order.approval import MOST_REASON, Approvals, person
from agents.page import tables
from agents.page.door import Door
from agents.page.forms import body_of, fields_of
from agents.page.guard import SESSION, Guard
from agents.page.picture import LABEL_WIDTH, draw, size_of
from agents.page.report import number_text, shown_report
from agents.page.tables import Table
from agents.page.words import LANGUAGES, preferred, say, word_of
from agents.site.ledger import Ledger
from agents.site.policy import load_policy
from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from agents.statistics.results import list_results, read_result
from agents.training.export import FORMATS, export_model
from agents.training.report_text import REPORT_FORMATS, report_of, written
from protocol.errors import BadRequest, Conflict, ConsiliumError, Forbidden
from protocol.machine.disk import has_free_bytes

LOOPBACK = "127.0.0.1"
LANGUAGE = "consilium-language"
"""The cookie of what was chosen."""
# How much is shown at once; the csv has all.
MOST_ROWS = 200
MOST_RESULT_ROWS = 500
N_DAYS = 28
LARGEST = 2**63
_FOLDER = Path(__file__).parent / "templates"


def serve(settings: SiteSettings, port: int, tell: Callable[[str], None]) -> None:
    """Serves the page on 127.0.0.1 until SIGINT or SIGTERM.

    `tell` gets the one-time link when it can be opened. BadRequest (code port) when the
    port is taken.
    """
    with _listening(port) as listener:
        taken_port = listener.getsockname()[1]
        at = f"{LOOPBACK}:{taken_port}"
        door = Door()
        config = uvicorn.Config(
            make_page(settings, door, at=at),
            lifespan="off",
            proxy_headers=False,
            log_level="warning",
            # The link's key is in an address.
            access_log=False,
            server_header=False,
            ws="none",
        )
        server = uvicorn.Server(config)
        tell(f"http://{at}{door.folder}/open?key={door.key}")
        server.run(sockets=[listener])


def _listening(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
        listener.listen(64)
    except (OSError, OverflowError):
        listener.close()
        raise BadRequest(
            f"Port {port} of this machine cannot be used.",
            remedy="Give another --port, or none.",
            code="port",
        ) from None
    return listener


def make_page(settings: SiteSettings, door: Door, *, at: str) -> ASGIApp:
    """The application that answers at `at`, host and port, to who has passed the door."""
    page = Page(settings, door)
    app = Starlette(routes=page.routes(), exception_handlers=page.handlers())

    def refuse(request: Request) -> Response:
        return page.message(request, "error.link", status=401)

    return Guard(app, door, at=at, refuse=refuse)


FormPage = Callable[[Request, dict[str, str]], Response]
"""What answers a form, with its fields."""


class Page:
    """What is shown.

    Every answer is made from ledger, vault and results folder as they are at that
    moment.
    """

    def __init__(self, settings: SiteSettings, door: Door) -> None:
        self.settings = settings
        self.door = door
        self._vault = Vault(settings.vault)
        self._ledger = Ledger(settings.ledger)
        self._approvals = Approvals(settings)
        # What is shown holds text of other hospitals: everything is escaped.
        self._templates = Environment(
            loader=FileSystemLoader(_FOLDER),
            autoescape=True,
            undefined=StrictUndefined,
        )
        self._templates.filters["pretty"] = _pretty
        self._templates.filters["number"] = number_text

    def routes(self) -> list[Route]:
        """The link and all pages, below the folder."""
        pages = {
            "/open": self.open,
            "/": self.overview,
            "/style.css": self.style,
            "/asked": self.asked,
            "/refused": self.refused,
            "/left": self.left,
            "/models": self.models,
            "/results": self.results,
            "/rounds": self.rounds,
            "/models/{number:int}/report": self.report,
            "/results/{number:int}": self.result,
            "/results/{number:int}/file": self.result_file,
            "/approvals/{number:int}": self.approval,
            "/{name}.csv": self.csv,
        }
        forms = {
            "/models/{number:int}": self.export,
            "/models/{number:int}/report": self.export_report,
            "/approvals/{number:int}": self.decide,
        }
        routes = []
        below = self.door.folder
        for path, page in pages.items():
            routes.append(Route(f"{below}{path}", page, methods=["GET"]))
        for path, form in forms.items():
            routes.append(Route(f"{below}{path}", self._form(form), methods=["POST"]))
        return routes

    def handlers(self) -> dict[Any, Any]:
        return {
            ConsiliumError: self._known,
            HTTPException: self._of_http,
            Exception: self._unplanned,
        }

    # The door

    def open(self, request: Request) -> Response:
        """Spends the link, and lets this browser in.

        Opened again in a browser that is in, it leads to the page.
        """
        is_in = self.door.is_in(request.cookies.get(SESSION))
        key = request.query_params.get("key", "")
        if not is_in and not self.door.open(key):
            return self.message(request, "error.spent", status=403)
        answer = self._to("/")
        answer.set_cookie(
            SESSION,
            self.door.session,
            path=self.door.folder,
            httponly=True,
            samesite="strict",
        )
        return answer

    def _to(self, path: str) -> Response:
        return RedirectResponse(f"{self.door.folder}{path}", status_code=303)

    # Pages

    def overview(self, request: Request) -> Response:
        entries = list(self._ledger.entries())
        recent = tables.traffic(entries, n_days=N_DAYS)
        return self._render(
            request,
            "overview.html",
            waiting=self._approvals.waiting(),
            picture=draw(recent),
            tables=[
                self._asked(entries),
                tables.refused(entries),
                tables.left(entries, self._names),
                self._models(),
                self._results(),
            ],
            is_full=not has_free_bytes(self.settings.state),
            folder=self.settings.state,
            broken=self._ledger.first_broken_line(),
            head=self._ledger.head(),
        )

    def style(self, request: Request) -> Response:
        return Response((_FOLDER / "style.css").read_bytes(), media_type="text/css")

    def asked(self, request: Request) -> Response:
        entries = self._ledger.entries()
        return self._table(request, self._asked(entries))

    def refused(self, request: Request) -> Response:
        entries = self._ledger.entries()
        return self._table(request, tables.refused(entries))

    def left(self, request: Request) -> Response:
        entries = list(self._ledger.entries())
        recent = tables.traffic(entries, n_days=N_DAYS)
        return self._render(
            request,
            "left.html",
            picture=draw(recent),
            traffic=recent.table(),
            table=_chosen(request, tables.left(entries, self._names)),
        )

    def models(self, request: Request) -> Response:
        return self._render(
            request,
            "models.html",
            table=self._models(),
            formats=FORMATS,
            with_report=self._with_report(),
        )

    def results(self, request: Request) -> Response:
        return self._render(request, "results.html", table=self._results())

    def rounds(self, request: Request) -> Response:
        rules = load_policy(self.settings.policy).cohort
        return self._render(
            request, "rounds.html", table=self._rounds(), days=rules.budget_days
        )

    def result(self, request: Request) -> Response:
        """A result's first rows.

        Disclosure: its values, to this hospital's own people.
        """
        found = read_result(self.settings.results_folder, _number(request))
        rows = found.rows()
        # Each once, in the order in which they come up.
        columns: dict[str, None] = {}
        for row in rows[:MOST_RESULT_ROWS]:
            columns.update(dict.fromkeys(row))
        return self._render(
            request,
            "result.html",
            result=found,
            columns=list(columns),
            rows=rows,
        )

    def result_file(self, request: Request) -> Response:
        """The file as it was received."""
        found = read_result(self.settings.results_folder, _number(request))
        kind = "text/csv" if found.type == "csv" else "application/json"
        return _download(found.path.read_bytes(), found.path.name, kind)

    def csv(self, request: Request) -> Response:
        """One of the tables, whole."""
        entries = list(self._ledger.entries())
        makers: dict[str, Callable[[], Table]] = {
            "asked": lambda: self._asked(entries),
            "refused": lambda: tables.refused(entries),
            "left": lambda: tables.left(entries, self._names),
            "traffic": lambda: tables.traffic(entries).table(),
            "models": self._models,
            "results": self._results,
            "rounds": self._rounds,
        }
        name = str(request.path_params["name"])
        if name not in makers:
            return self.message(request, "error.address", status=404)
        table = _chosen(request, makers[name]())
        return _download(table.to_csv().encode(), f"{name}.csv", "text/csv")

    def approval(self, request: Request) -> Response:
        """All that an order says, and two buttons."""
        return self._render(
            request,
            "approval.html",
            question=self._approvals.question(_number(request)),
            person=person(),
            most=MOST_REASON,
        )

    # Forms

    def decide(self, request: Request, form: dict[str, str]) -> Response:
        """A person's decision on the order that was shown, signed and written down."""
        number = _number(request)
        word = form.get("decision")
        if word not in ("approve", "refuse"):
            raise HTTPException(400)
        # The order may have been asked anew, with other contents, while the form was
        # open.
        question = self._approvals.question(number)
        if question.digest != form.get("digest"):
            raise Conflict(say("en", "error.changed"), remedy="", code="decided")
        self._approvals.decide(
            number,
            approve=word == "approve",
            reason=form.get("reason", "").strip(),
            person=person(),
        )
        return self._to("/asked")

    def export(self, request: Request, form: dict[str, str]) -> Response:
        """A model as a file; the ledger says so first.

        Disclosure: the model, as this hospital's own decision.
        """
        number = _number(request)
        file_format = form.get("format", "")
        if file_format not in FORMATS:
            raise HTTPException(400)
        exported = export_model(self._vault.model(number), file_format)
        # First: what cannot be written down is not given out.
        self._ledger.write("exported", model_id=number, format=file_format)
        text = json.dumps(exported, indent=2, allow_nan=False)
        name = f"model-{number}-{file_format}.json"
        return _download(text.encode(), name, "application/json")

    def report(self, request: Request) -> Response:
        """Estimates with standard errors of a model that has a report.

        Disclosure: of all hospitals' rows together, to this hospital's own people.
        """
        number = _number(request)
        report = report_of(self._vault.model(number))
        return self._render(
            request, "report.html", number=number, **shown_report(report)
        )

    def export_report(self, request: Request, form: dict[str, str]) -> Response:
        """A report as a file; the ledger says so first."""
        number = _number(request)
        file_format = form.get("format", "")
        if file_format not in REPORT_FORMATS:
            raise HTTPException(400)
        report = report_of(self._vault.model(number))
        self._ledger.write("exported", model_id=number, format=f"report {file_format}")
        text = written(report, file_format)
        kind, ending = REPORT_FORMATS[file_format]
        return _download(text.encode(), f"report-{number}.{ending}", kind)

    def _form(self, taken: FormPage) -> Callable[[Request], Awaitable[Response]]:
        """Only what a form of this page has sent, with its token, gets further."""

        async def answer(request: Request) -> Response:
            form = fields_of(await body_of(request))
            if not self.door.wrote_form(form.get("token", "")):
                raise Forbidden(say("en", "error.form"), remedy="", code="form")
            return await run_in_threadpool(taken, request, form)

        return answer

    # What went wrong

    def message(self, request: Request, name: str, *, status: int) -> Response:
        sentence = say(_language(request), name)
        return self._render(request, "message.html", status=status, sentence=sentence)

    def _known(self, request: Request, error: ConsiliumError) -> Response:
        return self._render(
            request, "message.html", status=error.status, sentence=str(error)
        )

    def _of_http(self, request: Request, error: HTTPException) -> Response:
        is_input = error.status_code in (400, 405, 413)
        name = "error.input" if is_input else "error.address"
        return self.message(request, name, status=error.status_code)

    def _unplanned(self, request: Request, error: Exception) -> Response:
        return self.message(request, "error.unplanned", status=500)

    # Parts of pages

    @property
    def _names(self) -> dict[int, str]:
        names = {self.settings.user_id: self.settings.name}
        for partner in self.settings.partners.values():
            names[partner.user_id] = partner.name
        return names

    def _asked(self, entries: Any) -> Table:
        return tables.asked(entries, self._names)

    def _models(self) -> Table:
        numbers = self._vault.models()
        return tables.models(self._vault.model(number) for number in numbers)

    def _with_report(self) -> set[str]:
        """The numbers of the models that have a report."""
        numbers = self._vault.models()
        return {str(n) for n in numbers if self._vault.model(n).get("report")}

    def _results(self) -> Table:
        return tables.results(list_results(self.settings.results_folder))

    def _rounds(self) -> Table:
        rules = load_policy(self.settings.policy).cohort
        folder = self._vault.cohorts
        spent = []
        # The page makes no file of the vault.
        if (folder / "rounds.sqlite").exists():
            spent = RoundBudget(folder).spent(rules=rules, now=datetime.now(UTC))
        return tables.rounds(spent, self._names, max_rounds=rules.max_rounds)

    def _table(self, request: Request, table: Table) -> Response:
        return self._render(request, "table.html", table=_chosen(request, table))

    def _render(
        self, request: Request, template: str, *, status: int = 200, **shown: Any
    ) -> Response:
        language = _language(request)
        # Who is not in reads neither the hospital's name nor the folder and the token
        # of the forms.
        is_in = self.door.is_in(request.cookies.get(SESSION))
        content = self._templates.get_template(template).render(
            base=self.door.folder if is_in else None,
            path=request.url.path,
            language=language,
            languages=LANGUAGES,
            hospital=self.settings.name if is_in else "",
            token=self.door.form if is_in else "",
            say=lambda words, /, **values: say(language, words, **values),
            word_of=lambda group, text: word_of(language, group, text),
            size_of=size_of,
            label_width=LABEL_WIDTH,
            most_rows=MOST_ROWS,
            most_result_rows=MOST_RESULT_ROWS,
            **shown,
        )
        answer = Response(
            content, status_code=status, media_type="text/html; charset=utf-8"
        )
        is_chosen = request.query_params.get("language") == language
        if is_in and is_chosen:
            answer.set_cookie(
                LANGUAGE,
                language,
                path=self.door.folder,
                httponly=True,
                samesite="strict",
            )
        return answer


def _pretty(value: Any) -> str:
    """A value as templates show it."""
    return json.dumps(value, ensure_ascii=False)


def _language(request: Request) -> str:
    """What was just chosen, or was chosen before, or what the browser prefers."""
    chosen = request.query_params.get("language")
    kept = request.cookies.get(LANGUAGE)
    for language in (chosen, kept):
        if language in LANGUAGES:
            return str(language)
    return preferred(request.headers.get("accept-language", ""))


def _number(request: Request) -> int:
    number = int(request.path_params["number"])
    if not 0 < number < LARGEST:
        raise HTTPException(404)
    return number


def _chosen(request: Request, table: Table) -> Table:
    """Of one order or model only, where the address says so."""
    number = request.query_params.get("order", "").strip()
    if not number:
        return table
    is_number = number.isascii() and number.isdecimal() and len(number) < 20
    if not is_number or "order" not in table.columns:
        raise HTTPException(400)
    return table.of_order(int(number))


def _download(content: bytes, name: str, kind: str) -> Response:
    """A file with its name, which may be in any script."""
    where = f"attachment; filename*=UTF-8''{quote(name, safe='')}"
    return Response(
        content,
        media_type=f"{kind}; charset=utf-8",
        headers={"Content-Disposition": where},
    )
