"""What forms of requests share: fields over one JSON body, the body itself to edit, its
check, and the curl for it.

`Draft` is the body, `Fields` makes the inputs; `order_form` and `statistics_form` are
the two forms.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from nicegui import ui

from api.pages.frame import html, note, shown
from api.pages.visit import Visit
from protocol.errors import ConsiliumError

# Where a part of a body is: the names of the objects around it, and its own.
Path = tuple[str, ...]
Check = Callable[[dict[str, Any]], Awaitable[None]]


class Draft:
    """A request's body while it is written.

    Fields show parts of it; whoever changes one, all others follow.
    """

    def __init__(self, body: Mapping[str, Any]) -> None:
        # A copy, through and through.
        self.body: dict[str, Any] = json.loads(json.dumps(body))
        self._watching: list[Callable[[], None]] = []
        self._is_telling = False

    def get(self, path: Path) -> Any:
        """A part of the body; None where it has none."""
        found: Any = self.body
        for name in path:
            if not isinstance(found, dict):
                return None
            found = found.get(name)
        return found

    def put(self, path: Path, value: Any) -> None:
        """Sets a part; None and empty texts are left out."""
        *outer, last = path
        place = self.body
        for name in outer:
            if not isinstance(place.get(name), dict):
                place[name] = {}
            place = place[name]
        if value in (None, "", [], {}):
            place.pop(last, None)
        else:
            place[last] = value
        self.tell()

    def replace(self, body: dict[str, Any]) -> None:
        self.body = body
        self.tell()

    def watch(self, on_change: Callable[[], None]) -> None:
        self._watching.append(on_change)

    def tell(self) -> None:
        """Shows the change everywhere."""
        # A field that is shown another value reports that as a change, which is none.
        if self._is_telling:
            return
        self._is_telling = True
        try:
            for on_change in self._watching:
                on_change()
        finally:
            self._is_telling = False

    @property
    def is_telling(self) -> bool:
        return self._is_telling


class Fields:
    """Makes inputs that show and change a draft."""

    def __init__(self, visit: Visit, draft: Draft) -> None:
        self.visit = visit
        self.draft = draft

    def text(self, path: Path, label: str, *, is_wide: bool = False) -> Any:
        if is_wide:
            field: Any = ui.textarea(label).props("autogrow").classes("wide")
        else:
            field = ui.input(label)
        return self._bind(field, path)

    def number(self, path: Path, label: str) -> Any:
        return self._bind(ui.number(label), path, read=_whole)

    def flag(self, path: Path, label: str) -> Any:
        """Yes or no; a field that is left out is no."""
        return self._bind(ui.checkbox(label), path, write=bool)

    def choice(self, path: Path, label: str, options: Sequence[Any]) -> Any:
        """One of several; None of them stands for the field left out."""
        names = {value: str(value) for value in options}
        if None in names:
            names[None] = self.visit.t("as the default")
        return self._bind(ui.select(names, label=label), path, known=set(names))

    def words(self, path: Path, label: str, read: Callable[[str], Any] = str) -> Any:
        """A list, with commas between."""

        def split(text: Any) -> list[Any]:
            words = [word.strip() for word in str(text or "").split(",")]
            return [read(word) for word in words if word]

        def joined(found: Any) -> str:
            if isinstance(found, list):
                return ", ".join(map(str, found))
            return "" if found is None else str(found)

        return self._bind(ui.input(label), path, read=split, write=joined)

    def named(
        self,
        path: Path,
        label: str,
        *,
        read: Callable[[str], Any],
        write: Callable[[Any], str],
    ) -> Any:
        """An object, on a line each of its names: `name = value`."""
        field: Any = ui.textarea(label).props("autogrow").classes("wide")
        return self._bind(
            field,
            path,
            read=lambda text: read_lines(text, read),
            write=lambda found: write_lines(found, write),
        )

    def _bind(
        self,
        field: Any,
        path: Path,
        *,
        read: Callable[[Any], Any] = lambda value: value,
        write: Callable[[Any], Any] = lambda value: value,
        known: set[Any] | None = None,
    ) -> Any:
        """Lets an input show and change a part of the draft; of values that are not
        `known` it shows none.
        """

        def show() -> None:
            value = write(self.draft.get(path))
            is_known = known is None or value in known
            field.value = value if is_known else None

        def change(event: Any) -> None:
            if not self.draft.is_telling:
                self.draft.put(path, read(event.value))

        show()
        field.on_value_change(change)
        self.draft.watch(show)
        return field


def read_lines(text: str | None, read: Callable[[str], Any]) -> dict[str, Any]:
    """An object of lines such as `name = value`; without = the value is an empty text.

    >>> read_lines("old = age >= 65\\nsex", str)
    {'old': 'age >= 65', 'sex': ''}
    """
    found: dict[str, Any] = {}
    for line in (text or "").splitlines():
        name, _, value = line.partition("=")
        if name.strip():
            found[name.strip()] = read(value.strip())
    return found


def write_lines(found: Any, write: Callable[[Any], str]) -> str:
    """The lines that `read_lines` reads.

    >>> write_lines({"old": "age >= 65", "sex": ""}, str)
    'old = age >= 65\\nsex'
    """
    if not isinstance(found, dict):
        return ""
    lines: list[str] = []
    for name, value in found.items():
        text = write(value)
        lines.append(f"{name} = {text}" if text else name)
    return "\n".join(lines)


def _whole(value: Any) -> Any:
    """A browser's numbers are floats; a whole one is written as 3 and not as 3.0."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def number_or_text(word: str) -> Any:
    """A number where it is one; what it should have been is for the API to say."""
    try:
        found = float(word)
    except ValueError:
        return word
    return _whole(found)


def show_body(visit: Visit, draft: Draft, path: Callable[[], str]) -> None:
    """The body as JSON, for every field that the form has not, and the call of the API
    that does the same.
    """
    t = visit.t
    body_part = ui.expansion(t("The body as JSON: every field of the API"))
    with body_part.props("default-opened=false").classes("wide"):
        text = ui.textarea(label="JSON", value=_pretty(draft.body)).props(
            "autogrow spellcheck=false"
        )
        text.style("width:100%;font-family:monospace")
        wrong = html("")

        def take() -> None:
            try:
                body = json.loads(text.value or "")
                if not isinstance(body, dict):
                    raise ValueError
            except (ValueError, RecursionError):
                wrong.set_content(note(t("This is not a JSON object."), "bad"))
                return
            wrong.set_content("")
            draft.replace(body)

        text.on("blur", take)
    with ui.expansion(t("The same with curl")).props("default-opened=false"):
        curl = html("")
        copy = ui.button(t("Copy"), on_click=lambda: ui.clipboard.write(command()))
        copy.props("no-caps outline dense")

    def command() -> str:
        return curl_of(visit, path(), draft.body)

    def show() -> None:
        text.value = _pretty(draft.body)
        curl.set_content(f'<pre class="code" tabindex="0">{shown(command())}</pre>')

    show()
    draft.watch(show)


def _pretty(body: Mapping[str, Any]) -> str:
    return json.dumps(body, indent=2, ensure_ascii=False)


def curl_of(visit: Visit, path: str, body: Mapping[str, Any]) -> str:
    """The call as a shell command; the token stays a variable."""
    address = shlex.quote(visit.address + path)
    sent = shlex.quote(_pretty(body))
    return (
        'curl -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" \\\n'
        f"  {address} \\\n  -d {sent}"
    )


def show_buttons(
    visit: Visit, draft: Draft, *, check: Check, send: Callable[[], Awaitable[None]]
) -> None:
    """Check, which asks nobody outside, and send.

    What is wrong is shown in the API's sentence.
    """
    t = visit.t
    result = html("").props('aria-live="polite"')

    async def is_good() -> bool:
        try:
            await check(draft.body)
        except ConsiliumError as error:
            result.set_content(note(visit.error(error), "bad"))
            return False
        result.set_content(
            note(t("Nothing is wrong with it. The hospitals check it again."), "good")
        )
        return True

    async def submit() -> None:
        if not await is_good():
            return
        result.set_content(note(t("Sent. Waiting for the hospitals' first answer ...")))
        sending.props("loading")
        try:
            await send()
        except ConsiliumError as error:
            result.set_content(note(visit.error(error), "bad"))
        finally:
            sending.props(remove="loading")

    with ui.element("div").classes("row"):
        ui.button(t("Check"), on_click=is_good).props("no-caps outline")
        sending = ui.button(t("Send"), on_click=submit).props("no-caps")
