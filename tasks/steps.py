"""Makes a function a Prefect task that shows when it ran and nothing else.

No task persists or caches a result, prints, or lets an unplanned exception's text out:
Prefect's server sees names and states (decision 1). Outside a flow run (simulations,
tests) a step is the plain function, and Prefect is not even imported.

Decisions 52 and 146.
"""

from __future__ import annotations

import functools
import logging
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from protocol.errors import ConsiliumError, Unavailable
from protocol.machine.disk import is_full

P = ParamSpec("P")
R = TypeVar("R")
log = logging.getLogger("consilium.tasks")

spent: defaultdict[str, float] = defaultdict(float)
"""Seconds by step of this process's one flow run; "Prefect" is what its task engine
takes around them.
"""


class UnplannedError(ConsiliumError):
    """Something that should not happen did; its full text is in the log of the site
    where it happened.
    """

    status = 500
    default_code = "unplanned"


_is_covered: ContextVar[bool] = ContextVar("is_covered", default=False)
"""Whether a step under way stands for all that run within it."""

_place: ContextVar[str] = ContextVar("place", default="")
"""Where in the order the step under way stands, for its task run's name."""


def step(
    name: str, at: Callable[..., str] | None = None, *, covers: bool = False
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: the function becomes the Prefect task `name` whenever a flow run is
    under way.

    `at` says, from the function's arguments, where in the order a run of it stands; the
    run is named after it. A step that `covers` is shown alone: those that run within it
    are no tasks of their own.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        def safely(call: functools.partial[R]) -> R:
            if not covers:
                return _timed_and_safe(name, call)
            token = _is_covered.set(True)
            try:
                return _timed_and_safe(name, call)
            finally:
                _is_covered.reset(token)

        as_task = functools.cache(lambda: _task(name, safely))

        @functools.wraps(function)
        def step_or_task(*args: P.args, **kwargs: P.kwargs) -> R:
            # A partial is opaque to Prefect, which would walk through whatever a task's
            # arguments hold.
            call = functools.partial(function, *args, **kwargs)
            if not _is_in_flow_run():
                return safely(call)
            if _is_covered.get():
                if not at:
                    log.info("%s: %s", _run_name(), name)
                return safely(call)
            if at:
                _place.set(f", {at(*args, **kwargs)}")
            else:
                # A step of a round has no line in the log: they are too many.
                _place.set("")
                log.info("%s: %s", _run_name(), name)
            began, spent_before = time.perf_counter(), spent[name]
            try:
                result: R = as_task()(call)
                return result
            finally:
                seconds_in_step = spent[name] - spent_before
                spent["Prefect"] += time.perf_counter() - began - seconds_in_step

        return step_or_task

    return decorate


def _is_in_flow_run() -> bool:
    context = sys.modules.get("prefect.context")
    return context is not None and context.FlowRunContext.get() is not None


def _run_name() -> str:
    from prefect.runtime import flow_run

    return str(flow_run.name)


def _task(name: str, function: Callable[..., R]) -> Callable[..., Any]:
    """Nothing that a step takes or gives is kept by Prefect, and no step is repeated by
    it.
    """
    from prefect import task
    from prefect.cache_policies import NO_CACHE

    return task(
        name=name,
        task_run_name=lambda: f"{name}{_place.get()}",
        persist_result=False,
        cache_policy=NO_CACHE,
        log_prints=False,
        retries=0,
    )(function)


def _timed_and_safe(name: str, call: Callable[[], R]) -> R:
    began = time.perf_counter()
    try:
        return call()
    except ConsiliumError:
        raise
    except OSError as error:
        if is_full(error):
            raise Unavailable(
                f"The step {name!r} found the disk of this site full.",
                remedy="Make room on it; the order goes on by itself.",
                code="disk",
            ) from None
        log.error("%s in %s", error, name)
        raise Unavailable(
            f"The step {name!r} met a {type(error).__name__} of this site.",
            remedy="Look for wrong file modes; the site's log has the full text.",
            code="site",
        ) from None
    except Exception as error:  # noqa: BLE001
        raise hidden(name, error) from None
    finally:
        spent[name] += time.perf_counter() - began


def hidden(name: str, error: Exception) -> UnplannedError:
    """A safe sentence in place of an exception; the exception itself goes to this
    site's own log.
    """
    log.error("Unplanned error in %s", name, exc_info=error)
    return UnplannedError(
        f"An unplanned error ({type(error).__name__}) ended the step {name!r}.",
        remedy="The log of the site where it happened has the full text.",
    )
