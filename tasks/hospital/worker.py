"""A hospital's worker: what the coordinator hears of this site, and what is left of an order that has ended."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from types import ModuleType
from typing import Any

import httpx
from watchfiles import awatch

from agents.rows.database import driver_modules
from agents.site.policy import load_policy
from agents.site.settings import Settings
from agents.site.vault import Vault
from protocol import VERSION
from protocol.errors import BadRequest, ConsiliumError, OrderStopped, Refused
from protocol.exchange import error_of
from tasks.exit_codes import ExitCode
from tasks.flow_process import preload
from tasks.worker import FlowWorker, Post, log, work_until_signal

TELL_AGAIN_SECONDS = 60.0
LOOK_AT_POLICY_MS, COMPARE_POLICY_MS = 200, 60_000


APPROVALS = ("hospital-train-approval", "hospital-statistics-approval")
"""Wait for a person, for days perhaps, and do not count among the orders that this hospital works on at once."""


INFERENCES = ("infer",)
"""Hold no places. One that waits for a person for days must not keep an order out that the coordinator has given a
place here, and that holds one at each of its other hospitals meanwhile."""


def main(settings: Settings, flows: ModuleType) -> None:
    """Runs a hospital's agent until SIGINT or SIGTERM; `flows` is the module whose flows it runs.

    `settings.environment()` must be set before this import.
    """
    Vault(settings.vault).identity()
    preload([flows.__name__, *_drivers(settings)])
    asyncio.run(_work_at_hospital(settings, flows))


def _drivers(settings: Settings) -> list[str]:
    """None for an address that cannot be used: that is mended while the agent runs."""
    try:
        return driver_modules(settings.data_url)
    except BadRequest:
        return []


class HospitalWorker(FlowWorker):
    """A hospital's worker: it presents its keys, and leaves nothing of an ended order in the vault."""

    type = "hospital"

    def __init__(self, settings: Settings, *, flows: ModuleType, post: Post) -> None:
        super().__init__(
            settings.pool,
            flows=flows,
            post=post,
            locks=settings.state / "runs",
            limit=settings.max_orders,
            without_place=APPROVALS,
            beside=INFERENCES,
        )
        self._settings, self._vault = settings, Vault(settings.vault)
        self._told: dict[str, Any] | None = None
        self._condition_told: dict[str, Any] = {}
        self._shut_out = ""
        self._presenting = asyncio.Lock()

    async def connected(self) -> None:
        await self._present()
        self._condition_told = {}  # another process of the coordinator knows nothing of it yet
        await self._forget_ended()

    async def _forget_ended(self) -> None:
        at_work = {work.order_id for work in self._work.values()}
        for order_id in self._vault.orders():
            if order_id not in at_work:
                await self.forget(order_id)

    def duties(self) -> list[Coroutine[Any, Any, None]]:
        return [*super().duties(), self._follow_policy(), self._follow_condition()]

    # What the coordinator is told of this site: whether its disk is full, and how wrong its clock is

    def _condition(self) -> dict[str, Any]:
        held_up = self._held_up.values()
        return {
            "disk_full": ExitCode.DISK_FULL in held_up,
            "not_ready": ExitCode.NOT_READY in held_up,
            "clock_seconds": self._clock.wrong_seconds(),
        }

    async def _tell_condition(self) -> None:
        condition, asked = self._condition(), time.monotonic()
        answer = await self._post.send("PUT", "/hospitals/me/condition", condition)
        answer.raise_for_status()
        self._condition_told = condition
        self._clock.heard(answer.json()["data"]["time"], asked=asked)

    async def _follow_condition(self) -> None:
        """Tells what has changed within a second, and all of it every minute, which compares the clocks anew."""
        told_at = time.monotonic()
        while True:
            await asyncio.sleep(1.0)
            was_full = self._condition_told.get("disk_full", False)
            is_due = time.monotonic() - told_at > TELL_AGAIN_SECONDS
            if self._condition() == self._condition_told and not is_due:
                continue
            with contextlib.suppress(
                httpx.HTTPError, KeyError, ValueError
            ):  # `listen` says who does not answer
                await self._tell_condition()
                told_at = time.monotonic()
                if was_full and not self._condition_told["disk_full"]:
                    await self._forget_ended()

    async def _follow_policy(self) -> None:
        """Tells the coordinator of a change at once: an order that says nothing of scoring gets what policies allow.

        Where the file lies so that no change of it is heard, such as behind a link, it is compared every minute.
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
                await self._tell_policy()
        except (OSError, RuntimeError) as error:
            log.warning("Changes of the policy are told at the next start only (%s)", type(error).__name__)

    async def _tell_policy(self) -> None:
        pause = 0.5
        while self._policy() != self._told:
            try:
                await self._present()
            except (httpx.HTTPError, ConsiliumError) as error:
                log.warning("The policy is not told yet (%s); trying again", type(error).__name__)
                await asyncio.sleep(pause)
                pause = min(2 * pause, 30.0)

    async def _present(self) -> None:
        """What is told last is what was read last."""
        async with self._presenting:
            policy = self._policy()
            level = policy["orders"]["scoring"] if policy else "none"
            identity = self._vault.identity().public.encode()
            news = {
                "identity": identity,
                "version": VERSION,
                "scoring": level,
                "policy": policy,
                "max_orders": self._settings.max_orders,
            }
            answer = await self._post.send("PUT", "/hospitals/me", news)
            reason = str(error_of(answer)) if 400 <= answer.status_code < 500 else ""
            if reason and reason != self._shut_out:
                log.error("The coordinator does not let this agent in: %s", reason)
            self._shut_out = reason
            answer.raise_for_status()
            self._told = policy

    def _policy(self) -> dict[str, Any] | None:
        """What others may see of it; nothing while it cannot be read, when every order is refused."""
        try:
            return load_policy(self._settings.policy).told().model_dump(mode="json")
        except Refused as error:
            log.error("%s", error)
            return None

    async def forget(self, order_id: int) -> None:
        """Keys and snapshot of an order that ended while its process, or this agent, was away."""
        if order_id not in self._vault.orders():
            return
        answer = await self._post.send("GET", f"/orders/{order_id}")
        state = answer.json()["data"]["state"] if answer.status_code == 200 else ""
        if state in ("success", "failed", "cancelled"):
            self._vault.end_order(order_id, state)

    async def withdraw(self, order_id: int) -> None:
        reason = OrderStopped(
            f"{self._settings.name} withdrew.",
            remedy="Ask the hospital, then send the order again.",
            code="withdrawn",
        )
        answer = await self._post.send("POST", f"/orders/{order_id}/refuse", reason.to_json())
        answer.raise_for_status()


async def _work_at_hospital(settings: Settings, flows: ModuleType) -> None:
    async with settings.async_client() as client:
        await work_until_signal(
            HospitalWorker(settings, flows=flows, post=Post(client, lambda: settings.secret("token")))
        )
