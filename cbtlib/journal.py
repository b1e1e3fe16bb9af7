"""The journal of a paid run: every attempt is on disk before it is sent, every raw reply after it came.

One SQLite file. If the process dies at any instant, what is in the file is enough to go on: finished answers are
kept, nothing finished is paid again, and the spend is known up to the attempts whose reply was never seen.

Notable choices:

- WAL with synchronous=FULL: a commit that returned survives a power cut. A writer thread commits what has queued up in
  one transaction, so that hundreds of requests a second share a few commits.
- The key of an attempt is the SHA-256 of the request body. Raw replies are kept, so outcomes can be derived anew.
- No request text and no key of an endpoint is written. What an endpoint says is written with secrets struck out.
- The file is locked while it is open: two runs into one folder would pay twice.
- Money is not written, tokens are. `spend` prices them: the lower bound counts usage that was reported, the upper
  bound adds the most that every attempt without a reported usage can have cost. What went by the Batch API is priced
  at its share.
"""

import asyncio
import base64
import json
import queue
import re
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cbtlib import CbtError
from cbtlib.prices import Price
from cbtlib.safety import LEVELS, Level

VERSION = 2
FINAL = ("ok", "refused", "unparsed", "truncated", "filtered")
"""Outcomes that end a question. `failed` does not: the same command tries again."""

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS attempts (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL,                -- SHA-256 of the request body
    sent REAL NOT NULL,               -- seconds since 1970
    prompt_bound INTEGER NOT NULL,    -- the most tokens this attempt can be billed for
    completion_bound INTEGER NOT NULL,
    ended REAL,                       -- NULL: in flight, or its reply was never seen
    status INTEGER,                   -- HTTP status, NULL without one
    body TEXT,                        -- the raw reply
    prompt_tokens INTEGER,            -- as reported; NULL when nothing was reported
    completion_tokens INTEGER,
    billable INTEGER NOT NULL DEFAULT 1,  -- 0: the endpoint turned it away
    outcome TEXT,                     -- a FINAL outcome, failed, or retried
    detail TEXT,
    batch TEXT,                       -- name of the batch that carries it; NULL: sent by itself
    UNIQUE (key, sent)
);
CREATE TABLE IF NOT EXISTS batches (
    name TEXT PRIMARY KEY,            -- ours, written before the endpoint hears of it
    id TEXT,                          -- the endpoint's; NULL until it is known
    state TEXT NOT NULL               -- open, or how it ended
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS triaged (  -- what the triage that `meta` names found
    key BLOB PRIMARY KEY,
    level TEXT NOT NULL               -- none, concern or crisis
) WITHOUT ROWID;
"""
_SENDING = "INSERT INTO attempts (key, sent, prompt_bound, completion_bound) VALUES (?, ?, ?, ?)"
_RECEIVED = (
    "UPDATE attempts SET ended = ?, status = ?, body = ?, prompt_tokens = ?, completion_tokens = ?, billable = ?, "
    "outcome = ?, detail = ?"
)
_COLUMNS = (
    "key, sent, prompt_bound, completion_bound, ended, status, body, prompt_tokens, completion_tokens, billable, "
    "outcome, detail, batch"
)
# The same attempt seen again is the same attempt; a reply wins over "in flight".
_MERGE = (
    f"INSERT INTO attempts ({_COLUMNS}) VALUES ({', '.join('?' * 13)}) ON CONFLICT (key, sent) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS.split(", ")[4:])
    + " WHERE attempts.ended IS NULL AND excluded.ended IS NOT NULL"
)
_REPLY = "coalesce(status, 0), coalesce(body, ''), prompt_tokens, completion_tokens, billable, outcome, detail, batch"


@dataclass(frozen=True, slots=True)
class Spend:
    """Tokens and money of a journal. Money in micro-dollars; None when the model is unpriced."""

    attempts: int
    unseen: int  # attempts that may be billed without having reported their usage
    prompt_tokens: int
    completion_tokens: int
    lower_micro: int | None
    upper_micro: int | None


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back for one attempt. `status` 0: no HTTP answer at all."""

    status: int
    body: str
    prompt_tokens: int | None
    completion_tokens: int | None
    billable: bool
    outcome: str
    detail: str
    batch: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as the journal knows it: `id` is None when the endpoint may never have heard of it."""

    name: str
    id: str | None
    state: str
    requests: int
    answered: int  # requests with a final outcome
    failed: int


class Journal:
    """An open journal. `write` may be awaited from one event loop; everything else is for when no writing goes on."""

    def __init__(self, path: Path | str, read_only: bool = False):
        self.path = Path(path)
        if read_only and not self.path.exists():
            raise CbtError(f"no journal at {path}; give the journal.sqlite of an earlier run")
        self._read_only = read_only
        mode = "ro" if read_only else "rwc"
        try:
            place = self.path.resolve()  # SQLite's other files lie beside the journal itself, not beside a link
            where = place.as_uri()
            if not where.startswith("file:///"):  # a share of Windows: SQLite takes no host
                where = where.replace("file://", "file:////", 1)
            uri = f"{where}?mode={mode}"
            if read_only and not place.with_name(f"{place.name}-wal").exists():
                uri += "&immutable=1"  # nobody writes to it, so it may lie where no lock can be made
            self._db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=2)
            if not read_only:
                self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.execute("PRAGMA fullfsync = ON")  # macOS: to the disk, not to its cache
                self._db.executescript(f"BEGIN IMMEDIATE; {_TABLES} COMMIT;")
            self._check_version(read_only)
        except (sqlite3.Error, CbtError) as error:
            if hasattr(self, "_db"):
                self._db.close()  # on Windows nobody could remove a file that is open
            raise error if isinstance(error, CbtError) else CbtError(_explain(error, self.path)) from None
        self._sent = 0.0
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None

    def _check_version(self, read_only: bool) -> None:
        found = self.meta().get("version")
        if found is None and not read_only:
            self.set_meta(version=str(VERSION))
        elif found != str(VERSION):
            raise CbtError(f"{self.path} is a journal of version {found}, this cbtlib reads {VERSION}; use a new --out")

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Close the file, a transaction that is open is undone; an error of SQLite becomes one sentence."""
        if self._writer is not None:
            self._queue.put(None)
            self._writer.join()
        self._db.close()
        if isinstance(error, sqlite3.Error):
            raise CbtError(_explain(error, self.path)) from None

    def meta(self) -> dict[str, str]:
        """What the run that made the journal wrote about itself."""
        return dict(self._db.execute("SELECT name, value FROM meta"))

    def set_meta(self, **values: str) -> None:
        """Write or replace entries of `meta`."""
        self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())

    def finished(self) -> set[bytes]:
        """Keys that have a FINAL outcome."""
        rows = self._db.execute(f"SELECT DISTINCT key FROM attempts WHERE outcome IN {FINAL}")
        return {key for (key,) in rows}

    def failed(self) -> set[bytes]:
        """Keys that were asked and failed; not those of a batch that ended before it came to them."""
        rows = self._db.execute(
            "SELECT DISTINCT key FROM attempts WHERE outcome = 'failed' AND (batch IS NULL OR status IS NOT NULL)"
        )
        return {key for (key,) in rows}

    def answered(self) -> bool:
        """Whether any key has a FINAL outcome."""
        return self._db.execute(f"SELECT 1 FROM attempts WHERE outcome IN {FINAL} LIMIT 1").fetchone() is not None

    def triaged(self, triage: str) -> dict[bytes, Level]:
        """The levels that this very triage found, by key."""
        if self.meta().get("triage") != triage:
            return {}
        levels = {level: level for level in LEVELS}  # SQLite would make a text for each of a million keys
        return {key: levels[level] for key, level in self._db.execute("SELECT key, level FROM triaged")}

    def add_triaged(self, found: Mapping[bytes, Level], triage: str) -> None:
        """Record the levels of keys; what another triage found is forgotten."""
        if self._read_only:
            return
        self._db.execute("BEGIN")
        if self.meta().get("triage") != triage:
            self._db.execute("DELETE FROM triaged")
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('triage', ?)", (triage,))
        self._db.executemany("INSERT OR REPLACE INTO triaged VALUES (?, ?)", found.items())
        self._db.execute("COMMIT")

    def reply(self, key: bytes) -> Reply | None:
        """The reply that stands for a key: an ok one, else the last final one, else the last failed one, else None."""
        row = self._db.execute(
            f"SELECT {_REPLY} FROM attempts WHERE key = ? AND outcome IS NOT NULL AND outcome != 'retried' ORDER BY "
            "CASE outcome WHEN 'ok' THEN 0 WHEN 'failed' THEN 2 ELSE 1 END, id DESC LIMIT 1",
            (key,),
        ).fetchone()
        return Reply(*row) if row else None

    def replies(self, outcome: str) -> Iterator[Reply]:
        """All replies with one outcome, in the order they were sent."""
        rows = self._db.execute(f"SELECT {_REPLY} FROM attempts WHERE outcome = ? ORDER BY id", (outcome,))
        yield from (Reply(*row) for row in rows)

    def spend(self, price: Price | None) -> Spend:
        """Tokens so far and the two bounds of what they cost at `price`."""
        rows = self._db.execute(
            "SELECT batch IS NOT NULL, count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0), "
            "coalesce(sum(billable AND prompt_tokens IS NULL), 0), "
            "coalesce(sum(CASE WHEN billable AND prompt_tokens IS NULL THEN prompt_bound END), 0), "
            "coalesce(sum(CASE WHEN billable AND prompt_tokens IS NULL THEN completion_bound END), 0) "
            "FROM attempts GROUP BY 1"
        ).fetchall()
        attempts, prompt, completion, unseen = (sum(row[column] for row in rows) for column in range(1, 5))
        lower = upper = None
        if price is not None:
            lower = sum(price.pico(row[2], row[3], row[0]) // 10**6 for row in rows)
            upper = sum(price.micro(row[2] + row[5], row[3] + row[6], row[0]) for row in rows)
        return Spend(attempts, unseen, prompt, completion, lower, upper)

    # ---- batches

    def open_batch(self, name: str, requests: Iterable[tuple[bytes, int, int]]) -> None:
        """Record a batch and its attempts (key, prompt bound, completion bound) before the endpoint hears of it."""
        now = time.time()
        self._db.execute("BEGIN")
        self._db.execute("INSERT INTO batches VALUES (?, NULL, 'open')", (name,))
        self._db.executemany(
            "INSERT INTO attempts (key, sent, prompt_bound, completion_bound, batch) VALUES (?, ?, ?, ?, ?)",
            ((key, now, *bounds, name) for key, *bounds in requests),
        )
        self._db.execute("COMMIT")

    def name_batch(self, name: str, identity: str) -> None:
        """Record the endpoint's id of a batch."""
        self._db.execute("UPDATE batches SET id = ? WHERE name = ?", (identity, name))

    def batches(self) -> list[Batch]:
        """All batches, in the order in which they were made."""
        rows = self._db.execute(
            f"SELECT name, batches.id, state, count(*), count(CASE WHEN outcome IN {FINAL} THEN 1 END), "
            "count(CASE outcome WHEN 'failed' THEN 1 END) FROM batches JOIN attempts ON batch = name "
            "GROUP BY name ORDER BY min(attempts.id)"
        )
        return [Batch(*row) for row in rows]

    def waiting(self) -> set[bytes]:
        """Keys whose reply an open batch may still bring."""
        rows = self._db.execute(
            "SELECT key FROM attempts JOIN batches ON batch = name WHERE state = 'open' AND ended IS NULL"
        )
        return {key for (key,) in rows}

    def close_batch(
        self, name: str, state: str, replies: Iterable[tuple[bytes, Reply]], *, billed: bool = False
    ) -> int:
        """Record what a batch brought and how it ended; returns how many of its requests it said nothing about.

        Those were not worked on, so they are not billed (`billed`: nobody knows, and the most is taken for spent), and
        the next run asks them again. Twice is as good as once.
        """
        now = time.time()
        self._db.execute("BEGIN")
        self._db.executemany(
            f"{_RECEIVED} WHERE key = ? AND batch = ? AND ended IS NULL",
            ((now, *_values(reply), key, name) for key, reply in replies),
        )
        silent = self._db.execute(
            "UPDATE attempts SET ended = ?, billable = ?, outcome = 'failed', detail = ? WHERE batch = ? AND ended IS "
            "NULL",
            (now, int(billed), f"the batch ended as {state} before it brought this request's reply", name),
        ).rowcount
        self._db.execute("UPDATE batches SET state = ? WHERE name = ?", (state, name))
        self._db.execute("COMMIT")
        return silent

    async def sending(self, key: bytes, prompt_bound: int, completion_bound: int) -> int:
        """Record an attempt; returns its id once that is on disk, and only then may it be sent."""
        self._sent = max(time.time(), self._sent + 1e-6)  # no two alike, though a clock may tick 64 times a second
        return await self._write(_SENDING, (key, self._sent, prompt_bound, completion_bound))

    async def received(self, attempt: int, reply: Reply) -> None:
        """Record what came back for an attempt."""
        await self._write(f"{_RECEIVED} WHERE id = ?", (time.time(), *_values(reply), attempt))

    def merge(self, other: Path) -> int:
        """Take over the attempts of another journal; returns how many were new. Doing it twice adds nothing.

        CbtError for the journal of another model.
        """
        before = self._db.execute("SELECT count(*) FROM attempts").fetchone()[0]
        with Journal(other, read_only=True) as source:
            mine, theirs = self.meta().get("model"), source.meta().get("model")
            if mine not in (None, theirs):
                raise CbtError(f"{other} holds answers of {theirs}, {self.path} of {mine}; merge journals of one model")
            try:
                self._take_over(source)
            except sqlite3.Error as error:
                raise CbtError(_explain(error, self.path)) from None
        return self._db.execute("SELECT count(*) FROM attempts").fetchone()[0] - before

    def _take_over(self, source: "Journal") -> None:
        self.set_meta(**{name: value for name, value in source.meta().items() if name not in ("version", "triage")})
        triage = source.meta().get("triage")
        if triage and self.meta().get("triage", triage) == triage:  # else its posts are looked at again
            self.add_triaged(source.triaged(triage), triage)
        self._db.execute("BEGIN")
        self._db.executemany(_MERGE, source._rows(f"SELECT {_COLUMNS} FROM attempts ORDER BY id"))
        self._db.executemany(
            "INSERT INTO batches VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET id = coalesce(excluded.id, id), "
            "state = CASE WHEN state = 'open' THEN excluded.state ELSE state END",
            source._rows("SELECT name, id, state FROM batches"),
        )
        self._db.execute("COMMIT")

    def _rows(self, query: str) -> Iterator[tuple[Any, ...]]:
        """Rows for another journal to take over; what is wrong with this one is said with its own name."""
        try:
            yield from self._db.execute(query)
        except sqlite3.Error as error:
            raise CbtError(_explain(error, self.path)) from None

    async def _write(self, statement: str, values: tuple[Any, ...]) -> int:
        if self._writer is None:
            self._writer = threading.Thread(target=self._commit_forever, name="journal", daemon=True)
            self._writer.start()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[int] = loop.create_future()
        self._queue.put((statement, values, loop, done))
        return await done

    def _commit_forever(self) -> None:
        """Commit whatever has queued up as one transaction, then tell everyone who waits for it."""
        while (first := self._queue.get()) is not None:
            batch = [first]
            while len(batch) < 1000 and not self._queue.empty():
                if (item := self._queue.get()) is None:
                    self._queue.put(None)
                    break
                batch.append(item)
            results: list[int | BaseException] = []
            try:
                self._db.execute("BEGIN")
                for statement, values, _, _ in batch:
                    results.append(self._db.execute(statement, values).lastrowid or 0)
                self._db.execute("COMMIT")
            except Exception as error:  # whatever it is: a writer that died would leave everyone waiting
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                results = [CbtError(_explain(error, self.path))] * len(batch)
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more, what is queued is still written
                batch[0][2].call_soon_threadsafe(_resolve, [item[3] for item in batch], results)


def _values(reply: Reply) -> tuple[Any, ...]:
    """A reply in the order of _RECEIVED, after the time."""
    usage = (reply.prompt_tokens, reply.completion_tokens)
    return (reply.status or None, reply.body, *usage, reply.billable, reply.outcome, reply.detail)


def _resolve(futures: list[asyncio.Future[int]], results: list[int | BaseException]) -> None:
    for future, result in zip(futures, results, strict=True):
        if future.cancelled():
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)


def _explain(error: Exception, path: Path) -> str:
    text = str(error)
    if "locked" in text:
        return f"{path} is in use by another run; wait for it, or give this run another --out"
    if "full" in text or "disk I/O" in text:
        return (
            f"{path} could not be written ({text}). What is in it is whole: free some disk space and run the same "
            "command again; it goes on where it stopped"
        )
    return f"{path} cannot be used as a journal: {text}; give a folder of an earlier run, or a new one"


def strike(text: str, key: str) -> str:
    """`text` with `key`, and what looks like a key, replaced by [secret]. A short key is a placeholder, no secret."""
    if len(key) >= 8:
        quoted = json.dumps(key)[1:-1]  # and as JSON may spell it: PHP writes \/ for /
        coded = quote(key, safe=""), base64.b64encode(key.encode()).decode()  # as addresses and basic logins do
        for spelling in (key, quoted, quoted.replace("/", "\\/"), *coded):
            text = text.replace(spelling, "[secret]")
    text = re.sub(r"//[^/\s@\"'<>]*@", "//[secret]@", text)  # a proxy's password: aiohttp quotes its address
    return re.sub(r"(?i)\b(bearer\s+|sk-|api[-_]?key[\"'=:\s]+)[\w.*-]{6,}", r"\1[secret]", text)
