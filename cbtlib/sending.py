"""Sending many requests at once: in flight up to a limit that the endpoint moves, retried, paced and within a budget.

Notable choices:

- An attempt is journalled, then waits for a slot, then is sent; its reply frees the slot before it is journalled. Disk
  and network overlap, so the journal costs no throughput.
- Pushback (429, 5xx, a broken connection) halves the limit, at most once a second; answers let it grow by one a round.
  A Retry-After holds everybody, because everybody would be turned away.
- What an attempt can cost at most is set aside before it is sent and settled when its usage is known.
- 401, 403, 404 and an account without credit concern every request: the run stops, what is in flight is still awaited.
  So does a run whose first requests are all turned away: what the endpoint dislikes, it would dislike to the end.
- Requests that failed in an earlier run come last. Where others were answered it was their own fault, so that their
  failing again ends no run: what can be answered is, and the run is finished.
"""

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from cbtlib import CbtError
from cbtlib.journal import Journal, Reply, strike
from cbtlib.prices import Price, dollars

if TYPE_CHECKING:
    from aiohttp import ClientSession
    from openai import OpenAI

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
FATAL = frozenset({401, 402, 403, 404})
HOPELESS = 8
"""Requests that failed, were turned away, or got no completion, with no other outcome yet: there a run stops."""
OVERHEAD = 256
"""Tokens a chat template may add to a request, at most. A token is at least one byte, so bytes bound the rest."""


class Endpoint(Protocol):
    """What is asked of an endpoint; `endpoint.Endpoint` is one. `name` is for people, `fingerprint` for manifests."""

    @property
    def base_url(self) -> str: ...
    @property
    def api_key(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Traffic:
    """How an endpoint is treated: requests in flight, attempts at one, seconds for each, and limits a minute."""

    concurrency: int = 8
    attempts: int = 6
    deadline: float = 120.0
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One request: its key, the path under the base URL, the bytes, and the most completion tokens they ask for."""

    key: bytes
    path: str
    body: bytes
    most_tokens: int


Judge = Callable[[int, str], tuple[str, str, int | None, int | None]]
"""(HTTP status, raw reply) -> (outcome, detail, prompt tokens, completion tokens)."""


def judged(judge: Judge, status: int, body: str, secret: str) -> tuple[str, str, str, int | None, int | None]:
    """What to keep of a reply, and its outcome, detail and tokens. `status` 0: `body` says why there is no reply.

    An answer is kept as it came. What is none may quote the key, an error that came as HTTP 200 too.
    """
    if status != 200:
        body = strike(body, secret)
    elif len(secret) >= 16:  # a debugging gateway echoes headers beside its answer
        body = body.replace(secret, "[secret]")
    found = judge(status, body) if status else ("failed", body, None, None)
    if status == 200 and found[0] == "failed":
        body = strike(body, secret)
        found = judge(status, body)
    return body, *found


class Sender:
    """One run: send requests until all have an outcome, the budget is used up, or the endpoint is of no use."""

    def __init__(
        self,
        journal: Journal,
        endpoint: Endpoint,
        traffic: Traffic,
        judge: Judge,
        price: Price | None = None,
        budget_micro: int | None = None,
    ):
        self.journal, self.endpoint, self.traffic, self.judge, self.price = journal, endpoint, traffic, judge, price
        self.throttle = _Throttle(traffic)
        self.purse = _Purse(budget_micro, journal.spend(price).upper_micro or 0)
        self.counts: Counter[str] = Counter()
        self.stopped, self.fatal = "", ""
        self.unreachable = self.strangers = self.hopeless = 0
        self.failed_before, self.answered_before = journal.failed(), journal.answered()

    def run(self, requests: list[Any], make: Callable[[Any], Request] | None = None) -> str:
        """Send all; returns why it stopped early ('' if it did not). CbtError for what concerns every request.

        `requests` may hold anything that `make` turns into a Request when its turn comes, to keep memory flat.
        """
        in_thread(self._run(requests, make or (lambda item: item)), self._interrupt)
        if self.fatal:
            raise CbtError(self.fatal)
        return self.stopped

    def _interrupt(self) -> None:
        self.stopped = "interrupted"
        with suppress(RuntimeError, AttributeError):  # the loop has ended, or has not begun
            self.throttle.loop.call_soon_threadsafe(self.throttle.over.set)

    async def _run(self, requests: list[Any], make: Callable[[Any], Request]) -> None:
        import aiohttp

        from cbtlib import progress

        self.throttle.start()
        self.bar = progress.bar(total=len(requests), desc="asking", unit="answer")
        todo = self._in_turn(requests, make)
        # Twice as many workers as slots: while one half is on the wire, the other half is on the disk or backing off.
        workers = min(len(requests), 2 * self.traffic.concurrency)
        timeout = aiohttp.ClientTimeout(total=self.traffic.deadline)
        connector = aiohttp.TCPConnector(limit=0)
        # `trust_env` would look for proxies and for .netrc in a thread of its own, twice for each request.
        proxy = _proxy(self.endpoint.base_url)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, proxy=proxy) as session:

            async def work() -> None:
                for request in todo:
                    await self._answer(session, request)
                    if self.stopped or self.fatal:
                        self.throttle.over.set()
                        return

            try:
                await asyncio.gather(*(work() for _ in range(workers)))
            finally:
                self.bar.close()

    def _in_turn(self, requests: list[Any], make: Callable[[Any], Request]) -> Iterator[Request]:
        """Each request when its turn comes; those that failed in an earlier run after all others."""
        again = []
        for item in requests:
            request = make(item)
            if request.key in self.failed_before:
                again.append(item)
            else:
                yield request
        yield from map(make, again)

    def _excused(self, request: Request) -> bool:
        """Whether its failing says nothing about the endpoint: it failed before, and others were answered."""
        return self.answered_before and request.key in self.failed_before

    async def _answer(self, session: "ClientSession", request: Request) -> None:
        """Attempts at one request until it has a final outcome or no attempt is left."""
        bounds = (len(request.body) + OVERHEAD, request.most_tokens)
        most = self.price.micro(*bounds) if self.price else 0
        for attempt in range(self.traffic.attempts):
            if self.stopped or self.fatal:
                return
            if not await self.purse.take(most):
                self.stopped = f"the budget is used up (at most {dollars(self.purse.committed)} spent)"
                return
            number = await self.journal.sending(request.key, *bounds)
            await self.throttle.enter(sum(bounds))
            if self.stopped or self.fatal:
                reply, wait = Reply(0, "", None, None, False, "retried", "not sent: the run stopped"), 0.0
                self.throttle.leave()
            else:
                reply, wait = await self._send(session, request, last=attempt + 1 == self.traffic.attempts)
            await self.journal.received(number, reply)
            self.purse.settle(most, self._cost(reply, most))
            if reply.outcome != "retried":
                self.counts[reply.outcome] += 1
                self.hopeless += reply.outcome == "failed" and not self._excused(request)
                if self.hopeless >= HOPELESS and set(self.counts) == {"failed"}:
                    self.fatal = self.fatal or self._hopeless(reply)
                self._show()
                return
            await self.throttle.sleep(wait + random.uniform(0, min(30.0, 0.5 * 2**attempt)))

    async def _send(self, session: "ClientSession", request: Request, last: bool) -> tuple[Reply, float]:
        """One attempt: what came back, and the seconds the endpoint asks to wait before the next one."""
        import aiohttp

        url = self.endpoint.base_url.rstrip("/") + request.path
        headers = {"authorization": f"Bearer {self.endpoint.api_key}", "content-type": "application/json"}
        status, body, pause = 0, "", 0.0
        try:
            async with session.post(url, data=request.body, headers=headers, allow_redirects=False) as response:
                raw = await response.read()
                status, body = response.status, raw.decode("utf-8", "replace")
                pause = pause_asked(response.headers)
            self.unreachable = 0
        except TimeoutError:
            body = f"no reply within {self.traffic.deadline:g} s"
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL) as error:
            body = f"no connection: {error}"
            self.unreachable += 1
        except (aiohttp.ClientError, OSError) as error:
            body = f"connection broke: {type(error).__name__} {error}"
        finally:
            self.throttle.leave()
        body, outcome, detail, sent, written = judged(self.judge, status, body, self.endpoint.api_key)
        no_connection = body.startswith("no connection")
        if outcome == "failed":
            self._look_for_fatal(request, status, body, detail, no_connection)
        again = outcome == "failed" and (status in RETRIED or status in (0, 200)) and not self.fatal
        if again:
            self.throttle.pushback(pause)
        else:
            self.throttle.answered()
        # An endpoint that turned a request away did not work on it. A server error may have come after the work.
        billable = not (no_connection or 400 <= status < 500)
        outcome = "retried" if again and not last else outcome
        return Reply(status, body, sent, written, billable, outcome, detail), pause

    def _look_for_fatal(self, request: Request, status: int, body: str, detail: str, no_connection: bool) -> None:
        if advice := advice_for_all(status, body):
            self.fatal = self.fatal or f"{self.endpoint.name} turned the run away ({detail}); {advice}"
        elif status == 200:
            self.strangers += not self._excused(request)
            if self.strangers >= HOPELESS and not set(self.counts) - {"failed"}:
                self.fatal = self.fatal or (
                    f"{self.endpoint.base_url} has sent no chat completion so far ({detail}); check the base URL (it "
                    "usually ends with /v1) and --body"
                )
        elif no_connection and self.unreachable >= 3 and not self.counts:
            self.fatal = self.fatal or f"{self.endpoint.base_url} cannot be reached ({detail}); check the base URL"

    def _hopeless(self, reply: Reply) -> str:
        """What to do when every request so far has failed, by the last reply."""
        advice = "when it works again, the same command goes on"
        if 400 <= reply.status < 500 and reply.status not in RETRIED:
            advice = "change the request (--body, --prompt)"
            if "response_format" in reply.body or "json_schema" in reply.body:
                advice = (
                    "it knows no structured outputs: take a text prompt (--prompt five_parts), or leave the schema out "
                    "(--body '{\"response_format\": null}') and let the replies be checked here"
                )
        return f"{self.endpoint.name} has answered none of {self.hopeless} requests ({reply.detail}); {advice}"

    def _cost(self, reply: Reply, most: int) -> int:
        if not self.price or not reply.billable:
            return 0
        if reply.prompt_tokens is None or reply.completion_tokens is None:
            return most
        return self.price.micro(reply.prompt_tokens, reply.completion_tokens)

    def _show(self) -> None:
        self.bar.update()
        if not self.bar.disable and self.bar.n % 16 == 0:
            spend = dollars(self.purse.committed) if self.price else "unpriced"
            self.bar.set_postfix(dict(self.counts) | {"spent at most": spend}, refresh=False)


class _Throttle:
    """Slots: a limit that moves, a pause for all, and pacing by requests and tokens a minute."""

    def __init__(self, traffic: Traffic):
        self.most, self.limit = traffic.concurrency, float(traffic.concurrency)
        self.per_request = 60 / traffic.requests_per_minute if traffic.requests_per_minute else 0.0
        self.per_token = 60 / traffic.tokens_per_minute if traffic.tokens_per_minute else 0.0
        self.active, self.held_until, self.next_send, self.last_cut = 0, 0.0, 0.0, 0.0
        self.waiting: deque[asyncio.Future[None]] = deque()
        self.over = asyncio.Event()  # set when the run stops: nobody goes on waiting for a turn

    def start(self) -> None:
        self.loop = asyncio.get_running_loop()

    async def enter(self, tokens: int) -> None:
        """Wait for a slot, the end of a pause, and one's turn."""
        while self.active >= max(1, int(self.limit)):
            turn = self.loop.create_future()
            self.waiting.append(turn)
            await turn
        self.active += 1
        while (wait := self.held_until - self.loop.time()) > 0:
            await self.sleep(wait)
            if self.over.is_set():
                return
        if self.per_request or self.per_token:
            now = self.loop.time()
            send_at = max(now, self.next_send)
            self.next_send = send_at + max(self.per_request, tokens * self.per_token)
            await self.sleep(send_at - now)

    async def sleep(self, seconds: float) -> None:
        """Sleep, but not beyond the end of the run."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.over.wait(), seconds)

    def leave(self) -> None:
        """Free a slot."""
        self.active -= 1
        for _ in range(min(len(self.waiting), max(1, int(self.limit)) - self.active)):
            if not (turn := self.waiting.popleft()).done():
                turn.set_result(None)

    def answered(self) -> None:
        """The endpoint keeps up: one more slot after a round of answers."""
        self.limit = min(self.most, self.limit + 1 / self.limit)

    def pushback(self, pause: float) -> None:
        """The endpoint does not keep up."""
        now = self.loop.time()
        self.held_until = max(self.held_until, now + pause)
        if now - self.last_cut > 1:
            self.limit, self.last_cut = max(1.0, self.limit / 2), now


class _Purse:
    """A budget in micro-dollars; what is in flight is set aside at its most."""

    def __init__(self, budget: int | None, spent: int):
        self.budget, self.committed, self.open = budget, spent, 0
        self.changed = asyncio.Event()

    async def take(self, most: int) -> bool:
        """Set `most` aside; False when it cannot fit even after everything in flight is settled."""
        while self.budget is not None and self.committed + most > self.budget:
            if not self.open:
                return False
            self.changed.clear()
            await self.changed.wait()
        self.committed += most
        self.open += 1
        return True

    def settle(self, most: int, cost: int) -> None:
        """Replace what was set aside by what it cost."""
        self.committed += cost - most
        self.open -= 1
        self.changed.set()


def client(endpoint: Endpoint, timeout: float = 120) -> "OpenAI":
    """The `openai` package's client for an endpoint; nothing is retried behind our back.

    It follows no redirect: another host would read the post and answer in this one's name.
    """
    from openai import DefaultHttpxClient, OpenAI

    http = DefaultHttpxClient(follow_redirects=False, trust_env=not _is_here(endpoint.base_url), timeout=timeout)
    return OpenAI(base_url=endpoint.base_url, api_key=endpoint.api_key, max_retries=0, http_client=http)


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for a URL (HTTPS_PROXY, NO_PROXY, …)."""
    parts = urlsplit(url)
    return None if _is_here(url) or proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)


def _is_here(url: str) -> bool:
    """Whether a URL is on this machine: a proxy would read what is sent, and its own loopback is another machine."""
    return (urlsplit(url).hostname or "") in ("localhost", "127.0.0.1", "::1")


def advice_for_all(status: int, body: str) -> str:
    """What to do about an error that every other request would meet too; '' for any other."""
    quota = status == 429 and ("insufficient_quota" in body or "exceeded your current quota" in body)
    if status not in FATAL and not quota:
        return ""
    hint = {401: "check OPENAI_API_KEY", 403: "check what this key may use", 404: "check base URL and model"}
    return hint.get(status, "top up the account; the same command goes on from here")


def pause_asked(headers: Mapping[str, str]) -> float:
    """Seconds that a reply asks to wait for before the next request."""
    return _retry_after(headers.get("retry-after-ms"), headers.get("retry-after"))


def _retry_after(milliseconds: str | None, value: str | None) -> float:
    """Seconds to wait as the endpoint asks for, in any of its three forms; 0 without one, at most 10 minutes."""
    seconds = 0.0
    with suppress(ValueError, TypeError):
        if milliseconds:
            seconds = float(milliseconds) / 1000
        elif value:
            seconds = float(value) if value[:1].isdigit() else parsedate_to_datetime(value).timestamp() - time.time()
    return min(max(0.0, seconds), 600.0)  # in this order: NaN becomes 0


def in_thread(work: Coroutine[Any, Any, None], interrupt: Callable[[], None]) -> None:
    """Run a coroutine in a thread with its own event loop: a notebook's thread already has one running.

    The first Ctrl-C calls `interrupt` and waits for what is in flight, the second one does not wait.
    """
    problem: list[BaseException] = []
    over = Event()

    def target() -> None:
        try:
            asyncio.run(work)
        except BaseException as error:
            problem.append(error)
        finally:
            over.set()

    # Not `join`: on Python before 3.13 one that Ctrl-C interrupted takes the thread for ended. Not one long wait: on
    # Windows, before 3.14, Ctrl-C waits for its end.
    Thread(target=target, name="sending", daemon=True).start()
    try:
        while not over.wait(0.2):
            pass
    except KeyboardInterrupt:
        interrupt()
        while not over.wait(0.2):
            pass
    if problem:
        raise problem[0]
