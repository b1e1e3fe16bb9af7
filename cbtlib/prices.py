"""What a model's tokens cost: a dated price file, and exact money in integer micro-units.

`data/prices.csv` holds list prices in US dollars per million tokens, each with the day it was read and where. Pass a
file of your own in the same columns to use your contract's prices.

Notable choices:

- A model that is not in the file is *unpriced* (None), never free. A bare name is looked up, then the part behind the
  last slash (`openai/gpt-4o-mini`); nothing is matched by similarity.
- One dollar per million tokens is one micro-dollar per token, so a price is kept as picodollars per token and every
  amount is an integer: sums do not drift, and a bound is a bound.
- Discounts for cached input or off-peak hours only lower a bill. Bounds and budgets ignore them.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from cbtlib import ROOT, CbtError, reading

DEFAULT = ROOT / "data" / "prices.csv"
COLUMNS = ("model", "provider", "input", "cached_input", "output", "batch_share", "as_of", "source", "note")


@dataclass(frozen=True, slots=True)
class Price:
    """One row: picodollars per prompt and completion token; `batch_share` is the Batch API's share of the price."""

    model: str
    provider: str
    input_pico: int
    output_pico: int
    batch_share: Fraction | None
    as_of: str
    source: str
    note: str

    def pico(self, prompt_tokens: int, completion_tokens: int, batch: bool = False) -> int | Fraction:
        """Picodollars (10^6 to a micro-dollar) for so many tokens, exact; `batch`: at the Batch API's share."""
        full = prompt_tokens * self.input_pico + completion_tokens * self.output_pico
        return full * self.batch_share if batch and self.batch_share else full

    def micro(self, prompt_tokens: int, completion_tokens: int, batch: bool = False) -> int:
        """Micro-dollars, rounded up: a sum of rounded amounts is never below the bill."""
        return -(-self.pico(prompt_tokens, completion_tokens, batch) // 10**6)


def load(path: Path | str = DEFAULT) -> dict[str, Price]:
    """Read a price file; CbtError names the line and the column of what is wrong."""
    try:
        rows = list(reading.rows(path))
    except OSError as error:
        raise CbtError(f"cannot read the price file {path} ({error}); data/prices.csv shows the format") from None
    prices: dict[str, Price] = {}
    for line, row in rows:
        if isinstance(row, reading.Problem):
            raise CbtError(f"{path}, {row}; put a text with a comma into quotes")
        if missing := [column for column in COLUMNS if not isinstance(row.get(column), str)]:
            raise CbtError(f"{path}, line {line}: no column {missing[0]}; the columns are {', '.join(COLUMNS)}")
        if row["model"] in prices:
            raise CbtError(f"{path}, line {line}: a second price for {row['model']}; keep one of the two")
        prices[row["model"]] = Price(
            model=row["model"],
            provider=row["provider"],
            input_pico=_pico(row, "input", path, line),
            output_pico=_pico(row, "output", path, line),
            batch_share=_share(row, path, line),
            as_of=_date(row, path, line),
            source=row["source"],
            note=row["note"],
        )
    return prices


def find(model: str, prices: dict[str, Price]) -> Price | None:
    """The price of a model; None when it is unpriced."""
    return prices.get(model) or prices.get(model.rsplit("/", 1)[-1])


@dataclass(frozen=True, slots=True)
class Forecast:
    """Totals for `total` answers: (expected, low, high) of tokens, and of micro-dollars (None when unpriced)."""

    sample: int
    total: int
    prompt_tokens: tuple[float, float, float]
    completion_tokens: tuple[float, float, float]
    cost_micro: tuple[float, float, float] | None


def forecast(usages: Sequence[tuple[int, int]], total: int, price: Price | None) -> Forecast:
    """What `total` answers will take, from (prompt, completion) tokens of a sample of at least two.

    A 95% prediction interval: Student's t over both the sample's mean and the scatter of the posts still to come.
    CbtError for a smaller sample.
    """
    if len(usages) < 2:
        raise CbtError(
            f"a forecast needs two answers with reported usage, the sample has {len(usages)}: take a larger --sample, "
            "or an endpoint that reports usage"
        )
    from scipy import stats  # slow to import, and only a forecast needs it

    quantile = float(stats.t.ppf(0.975, len(usages) - 1))

    def predict(values: list[float]) -> tuple[float, float, float]:
        expected = total * statistics.fmean(values)
        half = quantile * total * statistics.stdev(values) * math.sqrt(1 / len(values) + 1 / total)
        return expected, max(0.0, expected - half), expected + half

    return Forecast(
        sample=len(usages),
        total=total,
        prompt_tokens=predict([float(prompt) for prompt, _ in usages]),
        completion_tokens=predict([float(completion) for _, completion in usages]),
        cost_micro=predict([float(price.pico(*usage)) / 10**6 for usage in usages]) if price else None,
    )


def dollars(micro: int | None) -> str:
    """An amount for people: `$0.0123`, or `unpriced`."""
    return "unpriced" if micro is None else f"${micro / 10**6:,.4f}" if micro < 10**6 else f"${micro / 10**6:,.2f}"


def _pico(row: dict[str, str], column: str, path: Path | str, line: int) -> int:
    try:
        exact = Decimal(row[column]) * 10**6  # $1 per 10^6 tokens = 10^-6 $ = 10^6 picodollars per token
        pico = int(exact)
    except (ArithmeticError, ValueError):  # no number, too large a one, infinite, or nan
        raise CbtError(f"{path}, line {line}, column {column}: {row[column]!r} is not a price") from None
    if pico < 0 or pico != exact:
        raise CbtError(f"{path}, line {line}, column {column}: {row[column]} has to be a price with at most 6 decimals")
    return pico


def _share(row: dict[str, str], path: Path | str, line: int) -> Fraction | None:
    try:
        share = Fraction(row["batch_share"]) if row["batch_share"] else None
    except (ValueError, ZeroDivisionError):
        share = Fraction(-1)
    if share is not None and not 0 < share <= 1:
        raise CbtError(f"{path}, line {line}, column batch_share: {row['batch_share']!r} is no share of 1; 0.5 is half")
    return share


def _date(row: dict[str, str], path: Path | str, line: int) -> str:
    try:
        return date.fromisoformat(row["as_of"]).isoformat()
    except ValueError:
        raise CbtError(f"{path}, line {line}, column as_of: {row['as_of']!r} is no date; write 2026-11-25") from None
