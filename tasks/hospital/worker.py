"""A hospital's worker: what the coordinator hears of this site.

And what is left here of an order that has ended.
How runs are begun and kept running is in `tasks.worker`, which is the coordinator's
worker's too.

What an order imports is in memory before it, unless the site's settings say otherwise
(decision 122).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Generator, Mapping
from types import ModuleType
from typing import Any

import httpx
from watchfiles import awatch

from agents.site.coordinator_told import CoordinatorTold
from agents.site.policy import load_policy
from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from protocol import VERSION
from protocol.errors import BadRequest, ConsiliumError, OrderStopped, Refused
from protocol.exchange import error_of
from protocol.machine.installed import python_here
from protocol.start_window import LATE
from protocol.versions import (
    SPOKEN,
    Window,
    lag_between,
    numbers_of,
    other_version_remedy,
)
from tasks.exit_codes import ExitCode
from tasks.flow_process import preload
from tasks.hospital.cohorts import keep_cohorts
from tasks.post import Post
from tasks.worker import FlowWorker, log, work_until_signal

REPORT_AGAIN_SECONDS = 60.0
"""Between two reports of the same condition; each compares the clocks."""
NOTICE_SECONDS, NOTICE_AT_REST_SECONDS = 1.0, 5.0
"""Between two looks at whether it has changed, while there is work and at rest."""
LOOK_AT_POLICY_MS, COMPARE_POLICY_MS = 200, 60_000
"""After a change of its folder, and without one."""
MOST_PAUSE_SECONDS = 30.0

Report = dict[str, Any]
"""What the coordinator hears of this site, as JSON."""

APPROVALS = ("hospital-train-approval", "hospital-statistics-approval")
"""Wait for a person, for days perhaps, and do not count among the orders that this
hospital works on at once.
"""


INFERENCES = ("infer",)
"""Hold no places. One that waits for a person for days must not keep an order out that
the coordinator has given a place here, and that holds one at each of its other
hospitals meanwhile.
"""


def main(settings: SiteSettings, flows: ModuleType, began: Callable[[], None]) -> None:
    """Runs the flows of the module `flows` until SIGINT or SIGTERM.

    `settings.environment()` must be set before this import. `began` is called when the
    fork server has been started, which has no thread and no log of this process.
    """
    if settings.preload:
        preload([flows.__name__, *flows.PRELOADED, *_drivers(settings)])
    # Before a process is begun: one whose agent has ended meanwhile writes a page into
    # the log, behind the sentence that says why.
    Vault(settings.vault).identity()
    began()
    asyncio.run(_work_at_hospital(settings, flows))


def _drivers(settings: SiteSettings) -> list[str]:
    """None for an address that cannot be used.

    A person puts that right while the agent runs.
    """
    from agents.rows.database import driver_modules

    try:
        return driver_modules(settings.data_url)
    except BadRequest:
        return []


class RotatedToken(httpx.Auth):
    """The header with the token that is good now."""

    def __init__(self, read: Callable[[], str]) -> None:
        self._read = read
        self._last = read()

    def auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        # While its file is just being put right, the one before.
        with contextlib.suppress(BadRequest):
            self._last = self._read()
        request.headers["Authorization"] = f"Bearer {self._last}"
        yield request


class HospitalWorker(FlowWorker):
    """A hospital's worker.

    It presents its keys, and leaves nothing of an ended order in the vault.
    """

    type = "hospital"

    def __init__(
        self, settings: SiteSettings, *, flows: ModuleType, post: Post
    ) -> None:
        super().__init__(
            settings.pool,
            flows=flows,
            post=post,
            locks=settings.state / "runs",
            limit=settings.max_orders,
            without_place=APPROVALS,
            beside=INFERENCES,
        )
        self._settings = settings
        self._vault = Vault(settings.vault)
        self._reported_policy: Report | None = None
        self._reported_condition: Report = {}
        # why the coordinator does not let this agent in, so that it is logged once
        self._shut_out = ""
        # why the policy cannot be read, for the same reason
        self._bad_policy = ""
        # what the coordinator says of its version, as it was last compared
        self._told: CoordinatorTold | None = None
        self._presenting = asyncio.Lock()

    async def setup(self) -> None:
        """As Prefect's, and then with the token as its file has it at each call: it may
        be rotated while this worker runs.
        """
        await super().setup()
        self.client._client.auth = RotatedToken(lambda: self._settings.secret("token"))

    def flow_environment(self) -> Mapping[str, str]:
        try:
            return self._settings.token_environment()
        except BadRequest:
            # Its file is just being put right: the process has the one before, and is
            # started again if that is not taken.
            return {}

    def told(self, sentence: str, *, code: str) -> str:
        """A code: the coordinator passes on no sentence of a hospital's to Prefect."""
        return code

    async def connected(self) -> None:
        await self._present()
        # another process of the coordinator knows nothing of it yet
        self._reported_condition = {}
        await self._forget_ended()

    async def _forget_ended(self) -> None:
        at_work = {work.order_id for work in self._work.values()}
        for order_id in self._vault.orders():
            if order_id not in at_work:
                await self.forget(order_id)

    def duties(self) -> list[Coroutine[Any, Any, None]]:
        return [
            *super().duties(),
            self._follow_policy(),
            self._follow_condition(),
            keep_cohorts(self._settings),
        ]

    # What is reported of this site: whether its disk is full, and how wrong its clock
    # is (decision 58)

    def _condition(self) -> Report:
        return {
            "disk_full": self._keeper.is_held_up_by(ExitCode.DISK_FULL),
            "not_ready": self._keeper.is_held_up_by(ExitCode.NOT_READY),
            "clock_seconds": self._clock.wrong_seconds(),
        }

    async def _report_condition(self) -> None:
        condition = self._condition()
        asked = time.monotonic()
        answer = await self._post.send("PUT", "/hospitals/me/condition", condition)
        answer.raise_for_status()
        self._reported_condition = condition
        data = answer.json()["data"]
        self._clock.heard(data["time"], asked=asked)

    async def _follow_condition(self) -> None:
        """Reports what has changed within a second, at rest within five, and all of it
        every minute.

        Each report compares the clocks anew.
        """
        reported_at = time.monotonic()
        while True:
            await asyncio.sleep(
                NOTICE_SECONDS if self._work else NOTICE_AT_REST_SECONDS
            )
            was_full = self._reported_condition.get("disk_full", False)
            is_due = time.monotonic() - reported_at > REPORT_AGAIN_SECONDS
            if self._condition() == self._reported_condition and not is_due:
                continue
            # `listen` logs who does not answer.
            with contextlib.suppress(httpx.HTTPError, KeyError, ValueError):
                await self._report_condition()
                reported_at = time.monotonic()
                # What could not be deleted from a full disk can be now.
                if was_full and not self._reported_condition["disk_full"]:
                    await self._forget_ended()

    # What is reported of its policy

    async def _follow_policy(self) -> None:
        """Reports a change to the coordinator at once.

        An order that says nothing of scoring gets what policies allow. Where the file
        lies so that no change of it is heard, such as behind a link, it is compared
        every minute.
        """
        changes = awatch(
            self._settings.policy.parent,
            recursive=False,
            step=LOOK_AT_POLICY_MS,
            rust_timeout=COMPARE_POLICY_MS,
            yield_on_timeout=True,
        )
        try:
            async for _ in changes:
                await self._report_policy()
        except (OSError, RuntimeError) as error:
            log.warning(
                "Changes of the policy are told at the next start only (%s)",
                type(error).__name__,
            )

    async def _report_policy(self) -> None:
        pause = 0.5
        told = False
        while self._policy() != self._reported_policy:
            try:
                await self._present()
            except (httpx.HTTPError, ConsiliumError) as error:
                if not told:
                    log.warning(
                        "The policy is not told yet (%s); trying again",
                        type(error).__name__,
                    )
                told = True
                await asyncio.sleep(pause)
                pause = min(2 * pause, MOST_PAUSE_SECONDS)

    async def _present(self) -> None:
        """This site as the coordinator has it: keys, version and policy (decision 50).

        One call at a time, so that what is reported last is what was read last.
        """
        async with self._presenting:
            policy = self._policy()
            scoring = "none"
            speaks = SPOKEN
            if policy:
                scoring = policy["orders"]["scoring"]
                speaks = SPOKEN.not_below(policy["orders"]["oldest_protocol"])
            site = {
                "identity": self._vault.identity().public.encode(),
                "version": VERSION,
                "scoring": scoring,
                "policy": policy,
                "max_orders": self._settings.max_orders,
                "protocol": speaks.newest,
                "oldest_protocol": speaks.oldest,
            }
            answer = await self._post.send("PUT", "/hospitals/me", site)
            reason = ""
            if 400 <= answer.status_code < 500:
                reason = str(error_of(answer))
            if reason and reason != self._shut_out:
                log.error("The coordinator does not let this agent in: %s", reason)
            self._shut_out = reason
            answer.raise_for_status()
            self._compare_version(answer, speaks)
            self._reported_policy = policy

    def _compare_version(self, answer: httpx.Response, speaks: Window) -> None:
        """Says once for each version of the coordinator that it is another one, and
        whether one of the two lags behind the other in what it speaks.
        """
        told = None
        with contextlib.suppress(ValueError, AttributeError, KeyError):
            told = CoordinatorTold.of_answer(answer.json()["data"])
        if told is None or told == self._told:
            return
        self._told = told
        if numbers_of(told.version) is None:
            return
        told.keep(self._settings.state)
        if told.version != VERSION:
            remedy = other_version_remedy(VERSION, told.version, python_here())
            log.warning(
                "This agent is %s, the coordinator %s. %s",
                VERSION,
                told.version,
                remedy,
            )
        lag = lag_between(speaks, told.speaks, told.version, python=python_here())
        if lag is not None:
            level = logging.ERROR if lag.is_outside else logging.WARNING
            log.log(level, "%s %s", lag.sentence, lag.remedy)

    def _policy(self) -> Report | None:
        """What others may see of it.

        Nothing while it cannot be read, when every order is refused.
        """
        try:
            policy = load_policy(self._settings.policy)
        except Refused as error:
            # It is read again every minute.
            if str(error) != self._bad_policy:
                log.error("%s", error)
            self._bad_policy = str(error)
            return None
        self._bad_policy = ""
        return policy.told().model_dump(mode="json")

    # The end of an order here

    async def forget(self, order_id: int) -> None:
        """Keys and snapshot of an order that ended while it was away here.

        Its process was, or this agent.
        """
        if order_id not in self._vault.orders():
            return
        # The API's word, not a run's end: keys of an order under way are needed again.
        answer = await self._post.send("GET", f"/orders/{order_id}")
        if answer.status_code != 200:
            return
        order = answer.json()["data"]
        if self._settings.user_id in order["late"]:
            self._vault.end_order(order_id, LATE)
        elif order["state"] in ("success", "failed", "cancelled"):
            self._vault.end_order(order_id, order["state"])

    async def withdraw(self, order_id: int) -> None:
        reason = OrderStopped(
            f"{self._settings.name} withdrew.",
            remedy="Ask the hospital, then send the order again.",
            code="withdrawn",
        )
        answer = await self._post.send(
            "POST", f"/orders/{order_id}/refuse", reason.to_json()
        )
        answer.raise_for_status()


async def _work_at_hospital(settings: SiteSettings, flows: ModuleType) -> None:
    async with settings.async_client() as client:
        post = Post(client, token=lambda: settings.secret("token"))
        worker = HospitalWorker(settings, flows=flows, post=post)
        await work_until_signal(worker)
