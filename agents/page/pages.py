"""What the page shows and takes: one function for each address, from ledger, vault and
results folder as they are at that moment.

To read next: `agents.page.tables`, which has what the tables hold.

Decision 47.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from agents.gate.round_budget import RoundBudget
from agents.order.approval import MOST_REASON, Approvals, person
from agents.page import tables
from agents.page.asking import (
    LANGUAGE,
    chosen_rows,
    download,
    language_of,
    order_number,
    pretty,
)
from agents.page.door import Door
from agents.page.forms import body_of, fields_of
from agents.page.guard import SESSION
from agents.page.lag import lag_shown
from agents.page.picture import LABEL_WIDTH, draw, size_of
from agents.page.report import number_text, shown_evaluation, shown_report
from agents.page.result import MOST_RESULT_ROWS, TABLE_FORMATS, shown_result, table_file
from agents.page.tables import Table
from agents.page.words import LANGUAGES, figure_word, say, word_of
from agents.site.ledger import Ledger
from agents.site.policy import load_policy
from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from agents.statistics.results import Result, list_results, read_result
from agents.training.export import export_model
from agents.training.report_text import (
    EXPORT_FORMATS,
    REPORT_FORMATS,
    report_of,
    written,
    written_evaluation,
)
from protocol.errors import Conflict, ConsiliumError, Forbidden
from protocol.machine.disk import has_free_bytes

# How much is shown at once; the csv has all.
MOST_ROWS = 200
N_DAYS = 28
_FOLDER = Path(__file__).parent / "templates"


Form = dict[str, str]

FormPage = Callable[[Request, Form], Response]
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
        self._templates.filters["pretty"] = pretty
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
            "/evaluations/{number:int}": self.evaluation,
            "/results/{number:int}": self.result,
            "/results/{number:int}/file": self.result_file,
            "/results/{number:int}/table.{format}": self.result_table,
            "/approvals/{number:int}": self.approval,
            "/{name}.csv": self.csv,
        }
        forms = {
            "/models/{number:int}": self.export,
            "/models/{number:int}/report": self.export_report,
            "/evaluations/{number:int}": self.export_evaluation,
            "/approvals/{number:int}": self.decide,
        }
        routes = []
        folder = self.door.folder
        for path, page in pages.items():
            routes.append(Route(f"{folder}{path}", page, methods=["GET"]))
        for path, form in forms.items():
            taking = self._form(form)
            routes.append(Route(f"{folder}{path}", taking, methods=["POST"]))
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
        link_key = request.query_params.get("key", "")
        if not is_in and not self.door.open(link_key):
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
        ledger_entries = list(self._ledger.entries())
        recent = tables.traffic(ledger_entries, n_days=N_DAYS)
        return self._render(
            request,
            "overview.html",
            waiting=self._approvals.waiting(),
            picture=draw(recent),
            tables=[
                self._asked(ledger_entries),
                tables.refused(ledger_entries),
                tables.left(ledger_entries, self.settings.names),
                self._models(),
                self._results(),
            ],
            lag=lag_shown(self.settings, language_of(request)),
            is_full=not has_free_bytes(self.settings.state),
            folder=self.settings.state,
            broken=self._ledger.first_broken_line(),
            head=self._ledger.head(),
        )

    def style(self, request: Request) -> Response:
        sheet = _FOLDER / "style.css"
        return Response(sheet.read_bytes(), media_type="text/css")

    def asked(self, request: Request) -> Response:
        ledger_entries = self._ledger.entries()
        return self._table(request, self._asked(ledger_entries))

    def refused(self, request: Request) -> Response:
        ledger_entries = self._ledger.entries()
        return self._table(request, tables.refused(ledger_entries))

    def left(self, request: Request) -> Response:
        ledger_entries = list(self._ledger.entries())
        recent = tables.traffic(ledger_entries, n_days=N_DAYS)
        table = tables.left(ledger_entries, self.settings.names)
        return self._render(
            request,
            "left.html",
            picture=draw(recent),
            traffic=recent.table(),
            table=chosen_rows(request, table),
        )

    def models(self, request: Request) -> Response:
        return self._render(
            request,
            "models.html",
            table=self._models(),
            formats=EXPORT_FORMATS,
            with_report=self._with_report(),
            evaluations=self._vault.evaluations(),
        )

    def results(self, request: Request) -> Response:
        return self._render(request, "results.html", table=self._results())

    def rounds(self, request: Request) -> Response:
        rules = load_policy(self.settings.policy).cohort
        return self._render(
            request,
            "rounds.html",
            table=self._rounds(),
            days=rules.budget_days,
        )

    def result(self, request: Request) -> Response:
        """A result's first rows.

        Disclosure: its values, to this hospital's own people.
        """
        result = self._result_of(request)
        return self._render(request, "result.html", **shown_result(result))

    def result_table(self, request: Request) -> Response:
        """Of a `describe` the table that a paper takes."""
        result = self._result_of(request)
        file_format = str(request.path_params["format"])
        table_text = table_file(result, file_format)
        file_name = f"table-{result.order_id}.{file_format}"
        return download(table_text.encode(), file_name, TABLE_FORMATS[file_format])

    def result_file(self, request: Request) -> Response:
        """The file as it was received."""
        result = self._result_of(request)
        media_type = "text/csv" if result.type == "csv" else "application/json"
        content = result.path.read_bytes()
        return download(content, result.path.name, media_type)

    def csv(self, request: Request) -> Response:
        """One of the tables, whole."""
        ledger_entries = list(self._ledger.entries())
        makers: dict[str, Callable[[], Table]] = {
            "asked": lambda: self._asked(ledger_entries),
            "refused": lambda: tables.refused(ledger_entries),
            "left": lambda: tables.left(ledger_entries, self.settings.names),
            "traffic": lambda: tables.traffic(ledger_entries).table(),
            "models": self._models,
            "results": self._results,
            "rounds": self._rounds,
        }
        table_name = str(request.path_params["name"])
        if table_name not in makers:
            return self.message(request, "error.address", status=404)
        make = makers[table_name]
        csv_text = chosen_rows(request, make()).to_csv()
        return download(csv_text.encode(), f"{table_name}.csv", "text/csv")

    def approval(self, request: Request) -> Response:
        """All that an order says, and two buttons."""
        return self._render(
            request,
            "approval.html",
            question=self._approvals.question(order_number(request)),
            person=person(),
            most=MOST_REASON,
        )

    # Forms

    def decide(self, request: Request, form: Form) -> Response:
        """A person's decision on the order that was shown, signed and written down."""
        number = order_number(request)
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

    def export(self, request: Request, form: Form) -> Response:
        """A model as a file; the ledger says so first.

        Disclosure: the model, as this hospital's own decision.
        """
        number = order_number(request)
        file_format = form.get("format", "")
        if file_format not in EXPORT_FORMATS:
            raise HTTPException(400)
        exported = export_model(self._vault.model(number), file_format)
        # First: what cannot be written down is not given out.
        self._ledger.write("exported", model_id=number, format=file_format)
        model_text = json.dumps(exported, indent=2, allow_nan=False)
        file_name = f"model-{number}-{file_format}.json"
        return download(model_text.encode(), file_name, "application/json")

    def report(self, request: Request) -> Response:
        """Estimates with standard errors of a model that has a report.

        Disclosure: of all hospitals' rows together, to this hospital's own people.
        """
        number = order_number(request)
        report = report_of(self._vault.model(number))
        return self._render(
            request,
            "report.html",
            number=number,
            **shown_report(report),
        )

    def export_report(self, request: Request, form: Form) -> Response:
        """A report as a file; the ledger says so first."""
        number = order_number(request)
        file_format = form.get("format", "")
        if file_format not in REPORT_FORMATS:
            raise HTTPException(400)
        report = report_of(self._vault.model(number))
        self._ledger.write("exported", model_id=number, format=f"report {file_format}")
        report_text = written(report, file_format)
        media_type, ending = REPORT_FORMATS[file_format]
        return download(report_text.encode(), f"report-{number}.{ending}", media_type)

    def evaluation(self, request: Request) -> Response:
        """How good a model was on new rows, with its curves.

        Disclosure: of all hospitals' rows together, to this hospital's own people.
        """
        number = order_number(request)
        evaluation = self._vault.evaluation(number)
        return self._render(
            request,
            "evaluation.html",
            number=number,
            **shown_evaluation(evaluation),
        )

    def export_evaluation(self, request: Request, form: Form) -> Response:
        """An evaluation as a file; the ledger says so first."""
        number = order_number(request)
        file_format = form.get("format", "")
        if file_format not in REPORT_FORMATS:
            raise HTTPException(400)
        evaluation = self._vault.evaluation(number)
        self._ledger.write(
            "exported",
            model_id=evaluation["model_id"],
            evaluation_id=number,
            format=f"report {file_format}",
        )
        media_type, ending = REPORT_FORMATS[file_format]
        text = written_evaluation(evaluation, file_format)
        return download(text.encode(), f"evaluation-{number}.{ending}", media_type)

    def _form(self, form_page: FormPage) -> Callable[[Request], Awaitable[Response]]:
        """Only what a form of this page has sent, with its token, gets further."""

        async def answer(request: Request) -> Response:
            form = fields_of(await body_of(request))
            if not self.door.wrote_form(form.get("token", "")):
                raise Forbidden(say("en", "error.form"), remedy="", code="form")
            return await run_in_threadpool(form_page, request, form)

        return answer

    # What went wrong

    def message(self, request: Request, name: str, *, status: int) -> Response:
        sentence = say(language_of(request), name)
        return self._render(
            request,
            "message.html",
            status=status,
            sentence=sentence,
        )

    def _known(self, request: Request, error: ConsiliumError) -> Response:
        return self._render(
            request,
            "message.html",
            status=error.status,
            sentence=str(error),
        )

    def _of_http(self, request: Request, error: HTTPException) -> Response:
        is_input = error.status_code in (400, 405, 413)
        text_name = "error.input" if is_input else "error.address"
        return self.message(request, text_name, status=error.status_code)

    def _unplanned(self, request: Request, error: Exception) -> Response:
        return self.message(request, "error.unplanned", status=500)

    # Parts of pages

    def _asked(self, entries: Any) -> Table:
        return tables.asked(entries, self.settings.names)

    def _models(self) -> Table:
        numbers = self._vault.models()
        return tables.models(self._vault.model(number) for number in numbers)

    def _with_report(self) -> set[str]:
        """The numbers of the models that have a report."""
        model_numbers = set()
        for number in self._vault.models():
            if self._vault.model(number).get("report"):
                model_numbers.add(str(number))
        return model_numbers

    def _result_of(self, request: Request) -> Result:
        return read_result(self.settings.results_folder, order_number(request))

    def _results(self) -> Table:
        results = list_results(self.settings.results_folder)
        return tables.results(results)

    def _rounds(self) -> Table:
        rules = load_policy(self.settings.policy).cohort
        folder = self._vault.cohorts
        spent_rounds = []
        # The page makes no file of the vault.
        if (folder / "rounds.sqlite").exists():
            budget = RoundBudget(folder)
            spent_rounds = budget.spent(rules=rules, now=datetime.now(UTC))
        return tables.rounds(
            spent_rounds, self.settings.names, max_rounds=rules.max_rounds
        )

    def _table(self, request: Request, table: Table) -> Response:
        chosen = chosen_rows(request, table)
        return self._render(request, "table.html", table=chosen)

    def _render(
        self,
        request: Request,
        template: str,
        *,
        status: int = 200,
        **template_values: Any,
    ) -> Response:
        language = language_of(request)
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
            say=lambda text_name, /, **values: say(language, text_name, **values),
            word_of=lambda group, text: word_of(language, group, text),
            figure_word=lambda name: figure_word(language, name),
            size_of=size_of,
            label_width=LABEL_WIDTH,
            most_rows=MOST_ROWS,
            most_result_rows=MOST_RESULT_ROWS,
            **template_values,
        )
        answer = Response(
            content,
            status_code=status,
            media_type="text/html; charset=utf-8",
        )
        asked_language = request.query_params.get("language")
        if is_in and asked_language == language:
            answer.set_cookie(
                LANGUAGE,
                language,
                path=self.door.folder,
                httponly=True,
                samesite="strict",
            )
        return answer
