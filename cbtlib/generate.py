"""Many questions to CBT answers through any OpenAI-compatible endpoint: nothing is lost, nothing is made up.

    questions ──triage──▶ requests ──journal──▶ endpoint ──journal──▶ outcomes ──▶ answers.jsonl, manifest.json
    plan                  Job                   sending               classify      finish

Notable choices:

- Every question ends in one typed outcome: ok, refused, unparsed, truncated, filtered, failed or crisis. Only `ok`
  carries text out of here; an error message can never be mistaken for an answer.
- The request body is canonical JSON and its SHA-256 is the question's key: the same body is sent once, whatever the
  file order, the machine or the day; a changed prompt or parameter is another key and is asked anew.
- Journal first (see `journal`): kill the run at any instant and give the same command.
- Retries are ours, in `sending`: each attempt is journalled and counted in the spend.
- Outcomes are read from the raw replies each time, so a better parser reclassifies an old journal without a call.
- The wire is spoken with aiohttp: a client library's 3 ms of work a request are nothing beside one answer, and more
  than the whole budget of a run with 64 requests in flight.
"""

import hashlib
import json
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cbtlib import CbtError, prices, prompts, replies, safety
from cbtlib.answers import OUTCOMES, Answer, Outcome, ending, read_answers, to_line, write_lines
from cbtlib.journal import Journal, Spend
from cbtlib.prices import Price
from cbtlib.prompts import Prompt
from cbtlib.questions import Question
from cbtlib.reading import load_json, says_nothing
from cbtlib.safety import Level
from cbtlib.sending import Endpoint, Request, Sender, Traffic
from cbtlib.writing import make_folder

if TYPE_CHECKING:
    from cbtlib.risk import Classifier

_BLOCK = 500  # posts that triage looks at together: with the classifier, a minute or two on two cores
LONGEST_POST = 8000
"""Characters of a post that are sent. A longer one is `failed` with that reason: cut, it would be another question."""
NO_COUNT = 10**9
"""No reply has so many tokens: a usage figure from here on is no count."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """What the model is asked for. `body` is merged into the request; a None in it removes a field."""

    temperature: float = 0.7
    max_tokens: int = 1024
    seed: int | None = 0
    body: dict[str, Any] = field(default_factory=dict)


# Model and prompt stand elsewhere, and of a stream or of several choices only a part would be read.
_OURS = ("model", "messages", "prompt", "n", "best_of", "stream")


def most_tokens(sampling: Sampling) -> int:
    """The most completion tokens that one answer can be billed for; CbtError when the body leaves no such bound."""
    asked = {"max_tokens": sampling.max_tokens} | sampling.body
    if ours := [name for name in _OURS if asked.get(name) is True or asked.get(name) not in (None, False, 1)]:
        raise CbtError(
            f"the body sets {', '.join(ours)}, which no body may: take it out; model and prompt have options"
        )
    limits = [asked[name] for name in ("max_tokens", "max_completion_tokens") if asked.get(name) is not None]
    if not limits or not all(type(limit) is int and limit > 0 for limit in limits):
        raise CbtError(
            f"max_tokens or max_completion_tokens has to be a whole number above 0, not {limits or None}: without a "
            "limit an answer has no highest price; change --max-tokens or --body"
        )
    return max(limits)


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts of all outcomes (zeros included), the spend, and why the run stopped early ('' if it did not).

    `failures` are the three commonest reasons of failed answers, with their counts.
    """

    outcomes: dict[str, int]
    spend: Spend
    stopped: str
    failures: dict[str, int]


def run(
    questions: Iterable[Question], prompt: Prompt, endpoint: Endpoint, out: Path | str, **options: Any
) -> list[Answer]:
    """`generate`, and the answers in the order of the questions."""
    generate(questions, prompt, endpoint, out, **options)
    return list(read_answers(Path(out) / "answers.jsonl"))


def generate(
    questions: Iterable[Question],
    prompt: Prompt,
    endpoint: Endpoint,
    out: Path | str,
    *,
    sampling: Sampling | None = None,
    traffic: Traffic | None = None,
    budget: float | None = None,
    price_file: Path | str = prices.DEFAULT,
    shard: tuple[int, int] | None = None,
    classifier: "Classifier | None" = None,
    replay: Path | str | None = None,
    products: bool = True,
) -> Summary:
    """Answer `questions` (any iterable that can be gone through more than once) into the folder `out`.

    Writes journal.sqlite, answers.jsonl and manifest.json. `budget` in dollars is never exceeded: sending stops while
    the upper bound still fits. `shard` (i, n) keeps the questions whose key falls to part i of n. With a `classifier`,
    triage is more than its rules. With `replay`, all replies come from that journal; a request that is not in it is an
    error. Without `products` only the journal is written. CbtError with what to do where a run cannot go on: another
    model, no room, a reply that is not recorded.
    """
    job = Job(prompt, endpoint.model, sampling or Sampling(), shard, classifier)
    price = price_of(endpoint.model, price_file, budget)
    folder = make_folder(out)
    stopped = ""
    with Journal(replay or folder / "journal.sqlite", read_only=replay is not None) as journal:
        if not replay:
            job.claim(journal, endpoint)
        todo, levels = plan(questions, job, journal)
        if replay:  # a failed reply is one too
            if absent := [question for question in todo if journal.reply(job.request(question).key) is None]:
                raise CbtError(_miss(absent, job, journal))
        elif todo:
            sender = Sender(journal, endpoint, traffic or Traffic(), job.judge, price, micro(budget))
            stopped = sender.run(todo, job.request)
        return finish(questions, job, journal, price, endpoint, folder if products else None, levels, stopped)


def price_of(model: str, price_file: Path | str, budget: float | None) -> Price | None:
    """The price of a model; CbtError when a budget is to be kept and there is none."""
    price = prices.find(model, prices.load(price_file))
    if budget is not None and price is None:
        raise CbtError(f"{model} has no price in {price_file}: a budget cannot be kept; add a row or drop the budget")
    return price


def micro(budget: float | None) -> int | None:
    """A budget in micro-dollars; CbtError when it is none."""
    if budget is not None and not 0 < budget < 10**9:
        raise CbtError(f"a budget of {budget} dollars is no budget; give an amount above 0, or none at all")
    return None if budget is None else int(budget * 10**6)


def recorded(journal: Path | str, model: str | None = None) -> Endpoint:
    """The endpoint that a journal was recorded from, by name only: for `replay`, which asks nobody.

    CbtError for a journal that has recorded none.
    """
    with Journal(journal, read_only=True) as found:
        meta = found.meta()
    if "fingerprint" not in meta:
        raise CbtError(f"{journal} has recorded no request yet: replay needs the journal of a run that asked")
    return _Recorded(model or meta["model"], meta["endpoint"], meta["fingerprint"])


@dataclass(frozen=True, slots=True)
class _Recorded:
    model: str
    name: str
    fingerprint: str
    base_url: str = "http://replay.invalid"
    api_key: str = ""


def merge(folders: Iterable[Path | str], out: Path | str) -> int:
    """Bring the journals of several folders (shards, machines) into one; returns the attempts that were new.

    Merging twice changes nothing. Then `generate` over all questions into `out` writes the products and sends only
    what no shard has.
    """
    with Journal(make_folder(out) / "journal.sqlite") as journal:
        return sum(journal.merge(Path(folder) / "journal.sqlite") for folder in folders)


# ---------------------------------------------------------------- requests


@dataclass(frozen=True, slots=True)
class Job:
    """What makes a request out of a question, and an outcome out of a reply."""

    prompt: Prompt
    model: str
    sampling: Sampling
    shard: tuple[int, int] | None = None
    classifier: "Classifier | None" = None

    def __post_init__(self) -> None:
        most_tokens(self.sampling)

    @property
    def path(self) -> str:
        """The path under the base URL."""
        return "/completions" if self.prompt.kind == "completion" else "/chat/completions"

    @property
    def triage(self) -> str:
        """Names the triage: its answers are remembered under this name."""
        return triage_name(self.classifier)

    def body(self, question: Question) -> bytes:
        """The canonical request."""
        return request_body(question, self.prompt, self.model, self.sampling)

    def key(self, question: Question) -> bytes | None:
        """The question's key; None when another shard has it."""
        key = key_of(self.body(question))
        if self.shard and int.from_bytes(key[:8], "big") % self.shard[1] != self.shard[0] - 1:
            return None
        return key

    def request(self, question: Question) -> Request:
        """What is sent for a question."""
        body = self.body(question)
        return Request(key_of(body), self.path, body, most_tokens(self.sampling))

    def judge(self, status: int, body: str) -> tuple[str, str, int | None, int | None]:
        """(outcome, detail, prompt tokens, completion tokens) of a raw reply."""
        outcome, _, _, _, detail = classify(status, body, self.prompt)
        return outcome, detail, *usage_of(body)

    def describe(self) -> dict[str, str]:
        """What a journal says about the run that made it."""
        sampling = json.dumps(asdict(self.sampling), sort_keys=True)
        prompt = f"{self.prompt.name} ({self.prompt.sha256[:12]})"
        return {"model": self.model, "prompt": prompt, "sampling": sampling}

    def claim(self, journal: Journal, endpoint: Endpoint) -> None:
        """Write into a journal what it is of: one model, or its spend could not be priced, at one endpoint.

        CbtError for another model or endpoint than the journal's.
        """
        meta = journal.meta()
        if (found := meta.get("model", self.model)) != self.model:
            raise CbtError(f"{journal.path} holds answers of {found}; give {self.model} another --out")
        if meta.get("fingerprint", endpoint.fingerprint) != endpoint.fingerprint:
            raise CbtError(
                f"{journal.path} holds answers of {meta['endpoint']}, which would go by the name of {endpoint.name}; "
                "give that another --out"
            )
        journal.set_meta(**self.describe(), endpoint=endpoint.name, fingerprint=endpoint.fingerprint)


def triage(posts: Sequence[str], classifier: "Classifier | None" = None) -> list[safety.Triage]:
    """Triage by the rules, raised by the classifier where there is one."""
    found = [safety.triage(post) for post in posts]
    return classifier.look(posts, found) if classifier else found


def triage_name(classifier: "Classifier | None" = None) -> str:
    """Names the rules and the classifier of `triage`; it changes with them."""
    return safety.version() + (f"+{classifier.version}" if classifier else "")


def request_body(question: Question, prompt: Prompt, model: str, sampling: Sampling) -> bytes:
    """The canonical request: the bytes that are sent, and whose SHA-256 is the key."""
    extra = json.dumps(sampling.body)
    before, between, after = _frame(prompt, model, sampling.temperature, sampling.max_tokens, sampling.seed, extra)
    return f"{before}{_quoted(question.question)}{between}{_quoted(question.description)}{after}".encode()


_ENCODE = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would build this encoder again for each text


def _quoted(text: str) -> str:
    return _ENCODE(prompts.as_data(text))[1:-1]


@lru_cache(maxsize=16)
def _frame(
    prompt: Prompt, model: str, temperature: float, max_tokens: int, seed: int | None, extra: str
) -> tuple[str, str, str]:
    """The canonical JSON of a request around its two texts; the same for every question of a run."""
    marks = ("{question}", "{description}")
    body = {"model": model, "temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    body |= prompt.request(*marks) | json.loads(extra)
    body = {name: value for name, value in body.items() if value is not None}
    text = json.dumps(body, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    before, _, rest = text.partition(marks[0])
    between, _, after = rest.partition(marks[1])
    return before, between, after


def key_of(body: bytes) -> bytes:
    """The key of a request (32 bytes; its hex form is a Batch `custom_id`)."""
    return hashlib.sha256(body).digest()


def plan(questions: Iterable[Question], job: Job, journal: Journal) -> tuple[list[Question], dict[bytes, Level]]:
    """What has to be sent, each request once; and the level of every key: a crisis is kept from being sent.

    What triage finds is in the journal block by block: it may take longer than the sending.
    """
    from cbtlib import progress

    done = journal.finished()
    done |= journal.waiting()
    levels = journal.triaged(job.triage)
    todo: list[Question] = []
    keyed = ((key, question) for question in questions if (key := job.key(question)) is not None)
    total = len(questions) if isinstance(questions, Sized) else None
    with progress.bar(total=total, unit="post", desc="triage") as bar:
        while block := list(islice(keyed, _BLOCK)):
            if new := [(key, question) for key, question in block if key not in levels]:
                triages = triage([question.post for _, question in new], job.classifier)
                found = {key: triage.level for (key, _), triage in zip(new, triages, strict=True)}
                journal.add_triaged(found, job.triage)
                levels |= found
            for key, question in block:
                if key not in done and levels[key] != "crisis" and not _unsendable(question):
                    done.add(key)
                    todo.append(question)
            bar.update(len(block))
    return todo, levels


def _miss(absent: list[Question], job: Job, journal: Journal) -> str:
    recorded, wanted = journal.meta(), job.describe()
    changed = [
        f"{name}: {recorded.get(name)} there, {value} here"
        for name, value in wanted.items()
        if recorded.get(name) != value
    ]
    why = "; ".join(changed) or "the questions changed, or that run stopped before them: give its own, or finish it"
    return f"{journal.path} has no reply to {len(absent)} of the requests (first: question {absent[0].id}); {why}"


def _unsendable(question: Question) -> str:
    """Why a post is not sent at all; '' for every ordinary one."""
    post = prompts.as_data(question.post)
    if not post:
        return "the post is empty"
    return f"the post has {len(post):,} characters, the limit is {LONGEST_POST:,}" if len(post) > LONGEST_POST else ""


# ---------------------------------------------------------------- replies

_FILTER_CODES = ("content_filter", "content_policy", "data_inspection", "sensitive", "content management policy")


# What a reasoning model says to itself. One that was cut off in the middle of it has said nothing.
_THOUGHT = re.compile(r"^\s*<think>.*?(?:</think>\s*|$)", re.DOTALL)


def read_text(text: str, truncated: bool = False) -> tuple[Outcome, str]:
    """ok for a text that is an answer; else refused, failed (an error message), truncated or unparsed, and why."""
    kind = replies.kind(text)
    if kind == "refused":
        return kind, text
    if kind == "failed":  # a whole page may be one
        return kind, f"an error message in place of an answer: {text[:300]}"
    if truncated:
        return "truncated", "the answer stopped at the token limit"
    if not text:
        return "unparsed", "a reply without text"
    return ("unparsed", f"a reply that says nothing: {text}") if says_nothing(text) else ("ok", "")


def classify(status: int, body: str, prompt: Prompt) -> tuple[Outcome, str, dict[str, str] | None, str | None, str]:
    """(outcome, text, parts, finish reason, detail) of a raw reply. `failed` covers all that is not an answer."""
    if status != 200:
        filtered = status in (400, 403, 451) and any(code in body.lower() for code in _FILTER_CODES)
        return ("filtered" if filtered else "failed"), "", None, None, f"HTTP {status}: {_message(body)}"
    try:
        reply = load_json(body)
        choice, error = reply["choices"][0], reply.get("error")
        message = choice.get("message") or {"content": choice["text"]}
        text, finish = _THOUGHT.sub("", message.get("content") or "").strip(), choice.get("finish_reason")
    except (ValueError, LookupError, TypeError, AttributeError):
        return "failed", "", None, None, f"HTTP 200, but no chat completion: {body[:120]!r}"
    if error is not None:
        return "failed", "", None, finish, f"HTTP 200 with an error: {_message(body)}"
    end = ending(finish)
    if end == "filtered":
        return "filtered", "", None, finish, "the endpoint's content filter stopped the answer"
    if end == "failed":
        return "failed", "", None, finish, f"the answer did not end by itself: finish_reason {str(finish)[:80]!r}"
    if refusal := message.get("refusal"):
        return "refused", "", None, finish, str(refusal)[:200]
    outcome, why = read_text(text, end == "truncated")
    if outcome != "ok":
        return outcome, "", None, finish, why
    if prompt.output == "text":
        return "ok", text, None, finish, ""
    try:
        parts = prompts.parse(text)
    except ValueError as error:
        return "unparsed", "", None, finish, str(error)
    return "ok", "\n".join(parts.values()), parts, finish, ""


def _message(body: str) -> str:
    with suppress(ValueError, LookupError, TypeError):
        error = load_json(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)[:300]
    return body[:300]


def usage_of(body: str) -> tuple[int | None, int | None]:
    """Reported prompt and completion tokens; (None, None) when they are missing or no counts."""
    with suppress(ValueError, LookupError, TypeError):
        usage = load_json(body)["usage"]
        prompt, completion = usage["prompt_tokens"], usage["completion_tokens"]
        if all(isinstance(count, int) and 0 <= count < NO_COUNT for count in (prompt, completion)):
            return prompt, completion
    return None, None


# ---------------------------------------------------------------- products


def finish(
    questions: Iterable[Question],
    job: Job,
    journal: Journal,
    price: Price | None,
    endpoint: Endpoint,
    folder: Path | None,
    levels: Mapping[bytes, Level],
    stopped: str = "",
) -> Summary:
    """Write answers.jsonl and manifest.json from what is in the journal; without a folder, only count."""
    counts: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
    failures: Counter[str] = Counter()

    def lines() -> Iterator[str]:
        for answer in _collect(questions, job, journal, price, levels, stopped):
            counts[answer.outcome] += 1
            failures.update([answer.detail] if answer.outcome == "failed" else [])
            yield to_line(answer)

    if folder is None:
        deque(lines(), maxlen=0)
        return Summary(dict(counts), journal.spend(price), stopped, dict(failures.most_common(3)))
    (folder / "manifest.json").unlink(missing_ok=True)  # after a kill, it may not stand beside answers of another run
    write_lines(folder / "answers.jsonl", lines())
    spend = journal.spend(price)
    manifest = {
        "prompt": {"name": job.prompt.name, "sha256": job.prompt.sha256},
        "endpoint": {"model": endpoint.model, "name": endpoint.name, "fingerprint": endpoint.fingerprint},
        "sampling": asdict(job.sampling),
        "price": {"model": price.model, "as_of": price.as_of, "source": price.source} if price else "unpriced",
        "triage": job.triage,
        "shard": list(job.shard) if job.shard else None,
        "outcomes": dict(counts),
        "spend": asdict(spend),
        "stopped": stopped,
    }
    text = json.dumps(manifest, ensure_ascii=False, indent=1, sort_keys=True)
    write_lines(folder / "manifest.json", [text])
    return Summary(dict(counts), spend, stopped, dict(failures.most_common(3)))


def _collect(
    questions: Iterable[Question],
    job: Job,
    journal: Journal,
    price: Price | None,
    levels: Mapping[bytes, Level],
    stopped: str,
) -> Iterator[Answer]:
    """One answer a question, in their order."""
    nothing = (None, None, None, None, None)
    waiting = journal.waiting()
    for question in questions:
        key = job.key(question)
        if key is None:
            continue
        level = levels[key]
        if level == "crisis":
            why = "not sent to a model: the fixed referral stands instead"
            yield Answer(question.id, "crisis", "", *nothing, why, level, question.digest)
            continue
        reply = journal.reply(key)
        if reply is None or (key in waiting and reply.outcome == "failed"):
            why = _unsendable(question) or (key in waiting and "waits in a batch") or stopped or "not sent"
            yield Answer(question.id, "failed", "", *nothing, why, level, question.digest)
            continue
        outcome, text, parts, finish, detail = classify(reply.status, reply.body, job.prompt)
        detail = detail if reply.status else reply.detail
        tokens = (reply.prompt_tokens, reply.completion_tokens)
        known = price is not None and None not in tokens
        cost = price.micro(*tokens, reply.batch is not None) if known else None  # type: ignore[union-attr, arg-type]
        yield Answer(question.id, outcome, text, parts, finish, *tokens, cost, detail, level, question.digest)
