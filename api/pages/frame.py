"""What every page has: the frame around it, tables, figures that can be saved, and news
that come by themselves.

HTML is made by functions that return `Safe`; everything else is escaped by `shown`.
First the pieces of HTML, then `frame`, `follow` for news, and figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple
from urllib.parse import quote

from nicegui import background_tasks, ui

from api.live import rang
from api.pages.visit import Visit
from protocol.errors import ConsiliumError

# News come by the bell; that somebody has gone away rings none, so every page looks
# again now and then.
LOOK_SECONDS = 15.0
REST_SECONDS = 0.5
STATE_COLOURS = {
    "success": "good",
    "failed": "bad",
    "refused": "bad",
    "cancelled": "soft",
    "skipped": "soft",
}

# The links at the top of each page.
VIEWS = {
    "/page/orders": "Orders",
    "/page/orders/new": "New order",
    "/page/scores": "Scores",
    "/page/statistics": "Joint statistics",
    "/page/hospitals": "Hospitals",
}

STYLE = """
:root{--ink:#1d2733;--soft:#56616e;--line:#d7dde4;--paper:#fff;--tint:#f3f6f9;--key:#0b5cad;--good:#1a7a3c;--bad:#b3261e}
body.body--dark{--ink:#e8edf2;--soft:#a9b4c0;--line:#38434f;--paper:#12181f;--tint:#1b232c;--key:#7ab8ff;--good:#6fd08c;
--bad:#ff8a80}
body{background:var(--paper)!important;color:var(--ink);font-family:system-ui,"Noto Sans CJK SC","PingFang SC",
"Microsoft YaHei",Roboto,sans-serif;overflow-wrap:break-word}
a{color:var(--key)}
:focus-visible{outline:3px solid var(--key)!important;outline-offset:2px}
.top{display:flex;flex-wrap:wrap;gap:4px 18px;align-items:center;background:var(--tint);color:var(--ink);
border-bottom:1px solid var(--line);padding:8px 16px;width:100%}
.top a{color:var(--ink);text-decoration:none;padding:4px 0}.top a.on{border-bottom:3px solid var(--key)}
.top b{font-size:1.1em}.top .end{margin-left:auto;display:flex;flex-wrap:wrap;align-items:center;
gap:4px 14px}.q-btn--dense{padding:2px 10px!important}
.skip{position:absolute;left:-999px}.skip:focus{left:8px;top:8px;background:var(--paper);z-index:9999;padding:8px}
.nicegui-content{padding:0!important;width:100%;max-width:none;align-items:stretch;gap:0!important}
#main{max-width:1180px;width:100%;margin:0 auto;padding:12px 16px 48px;display:flex;flex-direction:column;gap:12px}
h1{font-size:1.6rem;line-height:1.3;font-weight:600;margin:6px 0}
h2{font-size:1.15rem;line-height:1.3;font-weight:600;margin:14px 0 0}
p{margin:0}.soft{color:var(--soft)}.bad{color:var(--bad)}.good{color:var(--good)}
.note{background:var(--tint);border-left:4px solid var(--key);padding:10px 14px;border-radius:4px}
.note.bad{border-color:var(--bad);color:var(--ink)}.note.good{border-color:var(--good);color:var(--ink)}
.note+.note,.facts+.note,.note+p,table+.note{margin-top:8px}
.row:not([class*="q-"]){display:flex;flex-wrap:wrap;gap:10px;align-items:center}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:10px}
.facts div{background:var(--tint);border-radius:6px;padding:8px 12px}.facts b{display:block;font-size:1.15rem}
table.grid{border-collapse:collapse;width:100%}table.grid caption{text-align:left;color:var(--soft);padding:4px 0}
table.grid th,table.grid td{text-align:left;padding:6px 10px;border-bottom:1px solid var(--line);vertical-align:top}
table.grid th{color:var(--soft);font-weight:500}table.grid td.n{font-variant-numeric:tabular-nums}
.even table.grid{table-layout:fixed}.even th:first-child{width:12%}
.chip{border-radius:10px;padding:1px 10px;border:1px solid currentColor;white-space:nowrap}
.bar{display:block;background:var(--line);height:8px;border-radius:4px;min-width:80px;overflow:hidden}
.bar i{display:block;height:8px;
background:var(--key)}
.figure{width:100%;height:380px}
.fields{display:grid;grid-template-columns:repeat(auto-fill,minmax(220px,1fr));gap:8px 16px}
.fields .wide{grid-column:1/-1}.q-expansion-item .fields{width:100%}
h3{font-size:1rem;line-height:1.3;font-weight:600;margin:8px 0 0}
.step{display:inline-block;min-width:1.6em;text-align:center;border-radius:1em;background:var(--key);color:var(--paper);
font-size:.9rem;line-height:1.6em}
.two{display:grid;grid-template-columns:minmax(0,1fr) minmax(0,400px);gap:8px 28px;align-items:start}
.two .fields{grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr))}.small{font-size:.85rem}
.q-radio,.q-checkbox{flex-wrap:nowrap!important}
.two>.beside{position:sticky;top:8px;max-height:96vh;overflow:auto}
.part{display:flex;flex-direction:column;gap:10px;min-width:0}
.columns{display:flex;flex-direction:column;gap:2px}
.line{display:grid;grid-template-columns:minmax(0,1fr) minmax(0,1fr) minmax(0,1.6fr) auto;gap:4px 12px;align-items:end}
.line>:last-child{grid-column:4}
.party{border:1px solid var(--line);border-radius:6px;padding:4px 12px 8px}
.party .inside{display:flex;flex-direction:column;gap:6px;width:100%}.party .inside>*{width:100%}
.party ul,.note ul{margin:4px 0 0;padding-left:20px}
pre.code{background:var(--tint);border:1px solid var(--line);border-radius:6px;padding:10px;overflow:auto;margin:0;
max-height:420px;white-space:pre-wrap;font-size:.85rem}
form.out{margin:0}form.out button{font:inherit;padding:4px 0;border:0;background:none;color:var(--ink);cursor:pointer}
form.sign{display:flex;flex-direction:column;gap:12px;max-width:420px}
form.sign input,form.sign button{font:inherit;padding:10px;border-radius:6px;border:1px solid var(--soft);
background:var(--paper);color:var(--ink)}form.sign button{background:var(--key);color:var(--paper);border:0}
@media(max-width:1000px){.two{grid-template-columns:minmax(0,1fr)}.two>.beside{position:static;max-height:none}}
@media(max-width:640px){.line{grid-template-columns:minmax(0,1fr) minmax(0,1fr) auto}
.line>:nth-child(3){grid-column:1/3;grid-row:2}.line>:last-child{grid-column:3;grid-row:1}
#main{padding:8px 12px 40px}.top{padding:8px 12px}
table.grid thead{position:absolute;left:-999px}
table.grid tr{display:block;border-bottom:2px solid var(--line);padding:6px 0}
table.grid td{display:flex;gap:12px;justify-content:space-between;border:0;padding:3px 0;text-align:right;
overflow-wrap:anywhere;min-width:0}
table.grid td::before{content:attr(data-label);color:var(--soft);text-align:left;flex:none;max-width:45%}
.figure{height:320px}}
"""


class Safe(str):
    """HTML that this package has made; any other text is escaped."""

    __slots__ = ()


def html(text: str) -> Any:
    """Puts HTML made here on the page."""
    return ui.html(text, sanitize=False)


def shown(value: Any) -> str:
    """A value as HTML; nothing for None."""
    if isinstance(value, Safe):
        return value
    return "" if value is None else escape(str(value))


def heading(step: int, text: str) -> Safe:
    """The head of a form's part."""
    return Safe(f'<h2><span class="step">{step}</span> {shown(text)}</h2>')


def link(address: str, text: Any, *, is_new: bool = False) -> Safe:
    """A link; `is_new` opens a window of its own."""
    # Without noopener the page that opens could send this one elsewhere.
    more = ' target="_blank" rel="noopener"' if is_new else ""
    return Safe(f'<a href="{escape(address)}"{more}>{shown(text)}</a>')


def table(
    heads: Sequence[str], rows: Iterable[Sequence[Any]], *, caption: str = ""
) -> Safe:
    """A table that becomes cards on a narrow screen."""
    head = "".join(f'<th scope="col">{shown(name)}</th>' for name in heads)
    body_rows = ""
    for row in rows:
        cells = ""
        for name, cell in zip(heads, row, strict=True):
            # On a narrow screen the head is hidden, and each cell has its name beside
            # it.
            cells += f'<td data-label="{escape(name)}"><span>{shown(cell)}</span></td>'
        body_rows += f"<tr>{cells}</tr>"
    about = f"<caption>{shown(caption)}</caption>" if caption else ""
    return Safe(
        f'<table class="grid">{about}<thead><tr>{head}</tr></thead><tbody>{body_rows}</tbody></table>'
    )


def facts(pairs: Iterable[tuple[str, Any]]) -> Safe:
    """Small tiles, each with a name and what it is."""
    tiles = ""
    for name, value in pairs:
        tiles += (
            f'<div><span class="soft">{shown(name)}</span><b>{shown(value)}</b></div>'
        )
    return Safe(f'<div class="facts">{tiles}</div>')


def note(text: Any, kind: str = "") -> Safe:
    """A paragraph that stands out; a screen reader interrupts for one of kind "bad"."""
    role = ' role="alert"' if kind == "bad" else ""
    return Safe(f'<div class="note {kind}"{role}>{shown(text)}</div>')


def chip(visit: Visit, state: str) -> Safe:
    """An order's state, by colour and by word."""
    colour = STATE_COLOURS.get(state, "")
    return Safe(f'<span class="chip {colour}">{shown(visit.t(state))}</span>')


def bar(n_done: int, n_parts: int, label: str) -> Safe:
    """How far something is."""
    percent = min(round(100 * n_done / n_parts), 100) if n_parts else 0
    return Safe(
        f'<span class="bar" role="progressbar" aria-valuenow="{percent}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-label="{shown(label)}"><i style="width:{percent}%"></i></span>'
    )


def moment(text: str | None) -> str:
    """An instant of the API as people read it, in UTC."""
    if not text:
        return "-"
    date, clock = text[:10], text[11:19]
    return f"{date} {clock} UTC"


def number(value: Any) -> str:
    """With 6 significant digits, which is all that leaves a hospital; whole numbers
    with all of theirs.
    """
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@contextlib.contextmanager
def frame(visit: Visit, title: str) -> Iterator[None]:
    """The page's head, its links and its main part; an error within is shown in its
    sentence.
    """
    _head(visit, title)
    with ui.element("div").props("id=main role=main"):
        html(f"<h1>{shown(title)}</h1>")
        try:
            yield
        except ConsiliumError as error:
            html(note(visit.error(error), "bad"))


def _head(visit: Visit, title: str) -> None:
    ui.page_title(f"{title} - Consilium")
    ui.dark_mode(visit.is_dark)
    style = STYLE
    if visit.is_dark:
        ui.colors(primary="#7ab8ff", negative="#ff8a80")
        style += "html{background:#12181f}"
    else:
        ui.colors(primary="#0b5cad", negative="#b3261e")
    language = "zh-CN" if visit.language == "zh" else "en"
    script = f'document.documentElement.lang="{language}"'
    ui.add_head_html(f"<style>{style}</style><script>{script}</script>")
    page_path = visit.here.split("?")[0]
    # /page/orders/new is a view of its own below /page/orders.
    around = [view for view in VIEWS if page_path.startswith(view)]
    current = max(around, key=len, default="/page/orders")
    links = ""
    for view, view_name in VIEWS.items():
        mark = " class=on aria-current=page" if view == current else ""
        links += f'<a href="{view}"{mark}>{shown(visit.t(view_name))}</a>'
    html(
        f'<a class="skip" href="#main">{shown(visit.t("To the content"))}</a><nav class="top" '
        f'aria-label="Consilium"><b>Consilium</b>{links}<span class="end">{_switches(visit)}</span></nav>'
    )


def _switches(visit: Visit) -> str:
    """Who is signed in, the other language, the other colours, and the way out."""
    back = quote(visit.here, safe="")
    language, language_name = (
        ("en", "English") if visit.language == "zh" else ("zh", "中文")
    )
    theme, theme_name = ("light", "Light") if visit.is_dark else ("dark", "Dark")
    who = visit.t(visit.caller.role)
    if visit.caller.user_id:
        who = f"{visit.t('Hospital')} {visit.caller.user_id}"
    links = [
        f'<span class="soft">{shown(who)}</span>',
        f'<a href="/page/preferences?language={language}&back={back}">{language_name}</a>',
        f'<a href="/page/preferences?theme={theme}&back={back}">{shown(visit.t(theme_name))}</a>',
    ]
    if visit.token:
        links.append(
            '<form class="out" method="post" action="/page/sign-out">'
            f"<button type=submit>{shown(visit.t('Sign out'))}</button></form>"
        )
    return "".join(links)


# News


def follow(
    visit: Visit, key: Any, refresh: Callable[[], Awaitable[bool | None]]
) -> None:
    """Calls `refresh` whenever the bell rings for `key`, until it answers False or the
    page is closed.
    """
    client = ui.context.client

    async def run() -> None:
        await client.connected()
        with visit.services.bell.listening(key) as event:
            while not event.over:
                # Before the page looks: what comes while it does rings for the next
                # turn.
                event.clear()
                with client:
                    goes_on = await _refreshed(visit, refresh)
                if goes_on is False:
                    return
                # A training order may ring many times a second.
                await asyncio.sleep(REST_SECONDS)
                await rang(event, time.monotonic() + LOOK_SECONDS)

    task = background_tasks.create(run(), name=f"follow {key}")
    # The task outlives its page otherwise, and would look again for good.
    client.on_delete(lambda: task.cancel())


async def _refreshed(
    visit: Visit, refresh: Callable[[], Awaitable[bool | None]]
) -> bool | None:
    """The answer of `refresh`; False after an error, which is shown."""
    try:
        return await refresh()
    except ConsiliumError as error:
        ui.notify(visit.error(error), type="negative", timeout=0, close_button=True)
        return False


@contextlib.contextmanager
def told_as_notice(visit: Visit) -> Iterator[None]:
    """A refusal of the API, as a notice on the page."""
    try:
        yield
    except ConsiliumError as error:
        ui.notify(
            visit.error(error),
            type="negative",
            timeout=0,
            close_button=True,
            multi_line=True,
        )


async def asked(visit: Visit, question: str) -> bool:
    """Whether the visitor says yes."""
    with ui.dialog() as dialog, ui.card():
        ui.label(question)
        with ui.row():
            yes = ui.button(visit.t("Yes"), on_click=lambda: dialog.submit(True))
            yes.props("no-caps")
            no = ui.button(visit.t("No"), on_click=lambda: dialog.submit(False))
            no.props("no-caps outline autofocus")
    return bool(await dialog)


# Figures


class Drawing(NamedTuple):
    """What a figure shows."""

    options: dict[str, Any]  # as `charts` makes them
    rows: list[list[Any]]  # the same numbers for a CSV file, the names of columns first


@dataclass
class Figure:
    """A picture and its numbers, both of which can be saved."""

    visit: Visit
    chart: Any  # NiceGUI's element
    name: str  # of the files
    rows: Sequence[Sequence[Any]]  # as a Drawing has them

    def show(self, options: Mapping[str, Any], rows: Sequence[Sequence[Any]]) -> None:
        self.rows = rows
        self.chart.options.clear()
        self.chart.options.update(options)
        self.chart.update()

    def save_picture(self) -> None:
        paper = "#12181f" if self.visit.is_dark else "#ffffff"
        file_name = json.dumps(f"{self.name}.png")
        ui.run_javascript(
            f"const c=getElement({self.chart.id}).chart,a=document.createElement('a');"
            f"a.href=c.getDataURL({{type:'png',pixelRatio:2,backgroundColor:'{paper}'}});"
            f"a.download={file_name};a.click()"
        )

    def save_numbers(self) -> None:
        save_rows(self.name, self.rows)


def save_rows(name: str, rows: Sequence[Sequence[Any]]) -> None:
    """The rows as a CSV file, for a spreadsheet to open: no cell of it is taken for a
    formula.
    """
    csv_text = io.StringIO()
    writer = csv.writer(csv_text)
    for row in rows:
        writer.writerow([_cell(cell) for cell in row])
    # Without this mark spreadsheets take UTF-8 for another encoding.
    ui.download.content("\ufeff" + csv_text.getvalue(), f"{name}.csv", "text/csv")


def _cell(value: Any) -> Any:
    """Names and sentences of others are among the cells: a spreadsheet would compute
    one that begins like a formula.
    """
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t"))
    return f"'{value}" if is_formula else value


def figure(
    visit: Visit,
    name: str,
    options: Mapping[str, Any],
    rows: Sequence[Sequence[Any]],
    *,
    label: str,
    on_click: Callable[[Any], Any] | None = None,
) -> Figure:
    """A chart with its two ways to be kept; `label` is what a screen reader says of it."""
    chart = ui.echart(dict(options), on_point_click=on_click).classes("figure")
    chart.props(f'role=img aria-label="{escape(label)}"')
    new_figure = Figure(visit, chart, name, rows)
    with ui.element("div").classes("row"):
        picture = ui.button(
            visit.t("Save picture (PNG)"), on_click=new_figure.save_picture
        )
        picture.props("no-caps outline dense")
        numbers = ui.button(
            visit.t("Save numbers (CSV)"), on_click=new_figure.save_numbers
        )
        numbers.props("no-caps outline dense")
    return new_figure
