"""What the demonstrations print, on a terminal or into a picture."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from rich import box
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.markup import escape
from rich.table import Table

PICTURE_COLUMNS = 104


def open_console(picture: Path | None) -> Console:
    """For a picture every bar is drawn once, when it is full: what was recorded is what
    had stood there at the end.
    """
    if picture is None:
        return Console(highlight=False)
    return Console(
        record=True, width=PICTURE_COLUMNS, force_terminal=False, highlight=False
    )


def save_picture(console: Console, path: Path, *, title: str) -> None:
    """What was printed, as an SVG that asks no other server for a font."""
    svg = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    svg = svg.replace(
        "Fira Code, monospace", "'DejaVu Sans Mono', Menlo, Consolas, monospace"
    )
    console.save_svg(
        str(path),
        title=title,
        code_format=svg,
        unique_id="demo",
        font_aspect_ratio=0.602,
    )


def make_table(title: str) -> Table:
    return Table(
        title=f"\n{title}",
        title_style="bold",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )


def say_request(console: Console, request: str, description: str) -> None:
    console.print(f"[bold]{request}[/]  [dim]{description}[/]")


def say_answer(console: Console, status: int, data: Any, *, wrap: bool = False) -> None:
    """In colour and cut off at the right, or whole over several lines."""
    answer_text = json.dumps(data, ensure_ascii=False)
    if wrap:
        console.print(f"[bold]{status}[/] {escape(answer_text)}")
    else:
        console.print(f"[bold]{status}[/] ", end="")
        console.print_json(answer_text, indent=None)
