"""What forms of requests share: fields over one JSON body, the body itself to edit, its
check, and the curl for it.

`Draft` is the body, `Fields` makes the inputs; `order_form` and `statistics_form` are
the two forms.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from nicegui import ui

from api.pages.frame import html, note, shown
from api.pages.visit import Visit
from protocol.errors import ConsiliumError

# Where a part of a body is: the names of the objects around it, and its own.
Path = tuple[str, ...]
Check = Callable[[dict[str, Any]], Awaitable[None]]
# Values that are left out of a body.
NOTHING: tuple[Any, ...] = (
    None,
    "",
    [],
    {},
)


class Draft:
    """A request's body while it is written.

    Fields show parts of it; whoever changes one, all others follow.
    """

    def __init__(self, body: Mapping[str, Any]) -> None:
        # A copy, through and through.
        copied = json.dumps(body)
        self.body: dict[str, Any] = json.loads(copied)
        self._watching: list[Callable[[], None]] = []
        self._told = json.dumps(self.body)
        self._is_telling = False

    def get(self, path: Path) -> Any:
        """A part of the body; None where it has none."""
        draft_part: Any = self.body
        for field_name in path:
            if not isinstance(draft_part, dict):
                return None
            draft_part = draft_part.get(field_name)
        return draft_part

    def members(self, name: str) -> list[Any]:
        """The members of a list of the body; none where people have written no list."""
        written = self.body.get(name)
        return list(written) if isinstance(written, list) else []

    def parts(self, name: str) -> dict[str, Any]:
        """The parts of an object of the body; none where people have written another
        form.
        """
        written = self.body.get(name)
        return dict(written) if isinstance(written, dict) else {}

    def put(self, path: Path, value: Any) -> None:
        """Sets a part; None and empty texts are left out."""
        *outer, last_field = path
        draft_part = self.body
        for field_name in outer:
            inner = draft_part.get(field_name)
            if not isinstance(inner, dict):
                inner = {}
                draft_part[field_name] = inner
            draft_part = inner
        if value in NOTHING:
            draft_part.pop(last_field, None)
        else:
            draft_part[last_field] = value
        self.tell()

    def replace(self, body: dict[str, Any]) -> None:
        self.body = body
        self.tell()

    def watch(self, on_change: Callable[[], None]) -> None:
        self._watching.append(on_change)

    def tell(self) -> None:
        """Shows the change everywhere."""
        # A field that is shown another value reports that as a change, which is none.
        # A browser does so later, too.
        now = json.dumps(self.body)
        if self._is_telling or now == self._told:
            return
        self._told = now
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

    def text(
        self,
        path: Path,
        label: str,
        *,
        is_wide: bool = False,
    ) -> Any:
        if is_wide:
            field: Any = wide_text(label)
        else:
            field = ui.input(label)
        return self._bind(field, path)

    def number(self, path: Path, label: str) -> Any:
        field = ui.number(label)
        return self._bind(field, path, read=_whole)

    def start(self) -> None:
        """When an order starts with who is there, and with how many at least."""
        t = self.visit.t
        within = t("Start with who is there after (seconds)")
        self.number(("start_within_seconds",), within)
        self.number(("at_least",), t("if so many hospitals are, at least"))

    def reader(self) -> Any:
        """To whose own key the answer is sealed."""
        label = self.visit.t("Reader's public key: the answer is sealed to it")
        field = self.text(("reader",), label)
        return field.style("width:100%")

    def flag(self, path: Path, label: str) -> Any:
        """Yes, or no, which is the field left out: of some the API takes no other no."""
        return self._bind(
            ui.checkbox(label),
            path,
            read=lambda value: value or None,
            write=bool,
        )

    def choice(
        self,
        path: Path,
        label: str,
        options: Sequence[Any] | Mapping[Any, str],
        *,
        unsaid: str = "",
    ) -> Any:
        """One of several, perhaps with words for each; None of them stands for the field
        left out, which means `unsaid`, a value of the API.
        """
        if isinstance(options, Mapping):
            labels = dict(options)
        else:
            labels = {option: str(option) for option in options}
            if None in labels:
                labels[None] = self.visit.t("as the default")
                if unsaid:
                    labels[None] = self.visit.t("{value} (default)", value=unsaid)
        field: Any = ui.select(labels, label=label)
        return self._bind(
            field,
            path,
            known=lambda: field.options,
        )

    def words(
        self,
        path: Path,
        label: str,
        read: Callable[[str], Any] = str,
    ) -> Any:
        """A list, with commas between."""

        def split(text: Any) -> list[Any]:
            written = str(text or "")
            values = []
            for piece in written.split(","):
                word = piece.strip()
                if word:
                    values.append(read(word))
            return values

        def joined(written: Any) -> str:
            if isinstance(written, list):
                return ", ".join(map(str, written))
            if written is None:
                return ""
            return str(written)

        return self._bind(
            ui.input(label),
            path,
            read=split,
            write=joined,
        )

    def named(
        self,
        path: Path,
        label: str,
        *,
        read: Callable[[str], Any],
        write: Callable[[Any], str],
    ) -> Any:
        """An object, on a line each of its names: `name = value`."""
        return self._bind(
            wide_text(label),
            path,
            read=lambda text: read_lines(text, read),
            write=lambda written: write_lines(written, write),
        )

    def shown_while(
        self,
        part: Any,
        is_wanted: Callable[[Mapping[str, Any]], bool],
    ) -> None:
        """Shows a part of the form while the body is as it is meant for."""

        def follow() -> None:
            is_shown = is_wanted(self.draft.body)
            part.set_visibility(is_shown)

        follow()
        self.draft.watch(follow)

    def _bind(
        self,
        field: Any,
        path: Path,
        *,
        read: Callable[[Any], Any] = lambda value: value,
        write: Callable[[Any], Any] = lambda value: value,
        known: Callable[[], Collection[Any]] | None = None,
    ) -> Any:
        """Lets an input show and change a part of the draft; of values that are not
        `known` it shows none.
        """

        def show() -> None:
            drafted = self.draft.get(path)
            shown_value = write(drafted)
            # A list, of a person who wrote one by hand, is in no set of choices.
            is_known = known is None or shown_value in list(known())
            if not is_known:
                shown_value = None
            field.value = shown_value

        def change(event: Any) -> None:
            if not self.draft.is_telling:
                self.draft.put(path, read(event.value))

        show()
        field.on_value_change(change)
        self.draft.watch(show)
        return field


def read_lines(
    text: str | None,
    read: Callable[[str], Any],
) -> dict[str, Any]:
    """An object of lines such as `name = value`; without = the value is an empty text.

    >>> read_lines("old = age >= 65\\nsex", str)
    {'old': 'age >= 65', 'sex': ''}
    """
    values: dict[str, Any] = {}
    written = text or ""
    for line in written.splitlines():
        before, _, after = line.partition("=")
        name = before.strip()
        value = after.strip()
        if name:
            values[name] = read(value)
    return values


def write_lines(
    values: Any,
    write: Callable[[Any], str],
) -> str:
    """The lines that `read_lines` reads.

    >>> write_lines({"old": "age >= 65", "sex": ""}, str)
    'old = age >= 65\\nsex'
    """
    if not isinstance(values, dict):
        return ""
    lines: list[str] = []
    for name, value in values.items():
        line = name
        value_text = write(value)
        if value_text:
            line = f"{name} = {value_text}"
        lines.append(line)
    return "\n".join(lines)


def _whole(value: Any) -> Any:
    """A browser's numbers are floats; a whole one is written as 3 and not as 3.0."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def number_or_text(word: str) -> Any:
    """A number where it is one; what it should have been is for the API to say."""
    try:
        number = float(word)
    except ValueError:
        return word
    return _whole(number)


def show_body(
    visit: Visit,
    draft: Draft,
    path: Callable[[], str],
    *,
    is_beside: bool = False,
) -> None:
    """The body as JSON, for every field that the form has not, and the call of the API
    that does the same. Where it stands beside the form, the JSON is open.
    """
    t = visit.t
    title = t("The body as JSON: every field of the API")
    body_part = ui.expansion(title, value=is_beside)
    with body_part.classes("wide"):
        address = html("")
        body_input = ui.textarea(label="JSON", value=_pretty(draft.body))
        body_input.props("autogrow spellcheck=false")
        body_input.style("width:100%;font-family:monospace")
        wrong = html("")

        def take() -> None:
            try:
                body = json.loads(body_input.value or "")
                if not isinstance(body, dict):
                    raise ValueError
            except (ValueError, RecursionError):
                sentence = t("This is not a JSON object.")
                wrong.set_content(note(sentence, "bad"))
                return
            wrong.set_content("")
            # Leaving the text as it was is no change.
            if body != draft.body:
                draft.replace(body)

        def take_body_along() -> None:
            ui.clipboard.write(_pretty(draft.body))

        body_input.on("blur", take)
        copy_body = ui.button(t("Copy the body"), on_click=take_body_along)
        copy_body.props("no-caps outline dense")

    def command() -> str:
        return curl_of(visit, path(), draft.body)

    def take_command_along() -> None:
        ui.clipboard.write(command())

    curl_part = ui.expansion(t("The same with curl"))
    with curl_part.props("default-opened=false"):
        curl = html("")
        copy = ui.button(t("Copy"), on_click=take_command_along)
        copy.props("no-caps outline dense")

    def show() -> None:
        body_input.value = _pretty(draft.body)
        called = shown(path())
        address.set_content(f"<code>POST {called}</code>")
        typed = shown(command())
        curl.set_content(f'<pre class="code" tabindex="0">{typed}</pre>')

    show()
    draft.watch(show)


def box(kind: str) -> Any:
    """A part of the page, of a class of its style sheet."""
    return ui.element("div").classes(kind)


def wide_text(label: str) -> Any:
    """An input of several lines, as wide as the form."""
    field: Any = ui.textarea(label)
    field.props("autogrow")
    return field.classes("wide")


def _pretty(body: Mapping[str, Any]) -> str:
    return json.dumps(body, indent=2, ensure_ascii=False)


def curl_of(
    visit: Visit,
    path: str,
    body: Mapping[str, Any],
) -> str:
    """The call as a shell command; the token stays a variable."""
    # It is pasted into a shell, and others may have written what is in the body:
    # unquoted, $(...) in a name would run there.
    address = shlex.quote(visit.address + path)
    quoted_body = shlex.quote(_pretty(body))
    return (
        'curl -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" \\\n'
        f"  {address} \\\n  -d {quoted_body}"
    )


def once_at_a_time(
    work: Callable[[], Awaitable[None]],
) -> Callable[[], Awaitable[None]]:
    """The same work for a button, which takes no further click while it is under way:
    one that comes before the browser shows that it loads would make a second order.
    """
    is_under_way = False

    async def guarded() -> None:
        nonlocal is_under_way
        if is_under_way:
            return
        is_under_way = True
        try:
            await work()
        finally:
            is_under_way = False

    return guarded


def show_buttons(
    visit: Visit,
    draft: Draft,
    *,
    check: Check,
    send: Callable[[], Awaitable[None]],
) -> None:
    """Check, which asks nobody outside, and send.

    What is wrong is shown in the API's sentence.
    """
    t = visit.t
    outcome = html("").props('aria-live="polite"')

    def tell(sentence: str, tone: str) -> None:
        outcome.set_content(note(sentence, tone))

    async def is_good() -> bool:
        try:
            await check(draft.body)
        except ConsiliumError as error:
            tell(visit.error(error), "bad")
            return False
        tell(t("Nothing is wrong with it. The hospitals check it again."), "good")
        return True

    @once_at_a_time
    async def submit() -> None:
        if not await is_good():
            return
        waiting = t("Sent. Waiting for the hospitals' first answer ...")
        outcome.set_content(note(waiting))
        sending.props("loading")
        try:
            await send()
        except ConsiliumError as error:
            tell(visit.error(error), "bad")
        finally:
            sending.props(remove="loading")

    def forget() -> None:
        """What was found of an earlier body is not said of this one."""
        outcome.set_content("")

    draft.watch(forget)
    with box("row"):
        checking = ui.button(t("Check"), on_click=is_good)
        checking.props("no-caps outline")
        sending = ui.button(t("Send"), on_click=submit)
        sending.props("no-caps")
