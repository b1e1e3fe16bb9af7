"""The questions of a run: a JSONL, JSON or CSV file, checked as a whole before anything is paid.

Every line that is not a question is named. A file in a foreign encoding, a second use of an id or an empty post would
otherwise turn up in the middle of a night's run, or as an answer to nothing.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cbtlib import CbtError, reading


@dataclass(frozen=True, slots=True)
class Question:
    """A post to answer."""

    id: str
    question: str
    description: str

    @property
    def post(self) -> str:
        """Question and description as the client wrote them."""
        return f"{self.question}\n{self.description}"

    @property
    def digest(self) -> str:
        """Names the post, whatever its id."""
        return digest(self.post)


def digest(post: str) -> str:
    """Names a post by its text: 16 hex digits of its SHA-256."""
    return hashlib.sha256(post.encode(errors="replace")).hexdigest()[:16]


def read_questions(path: Path | str) -> list[Question]:
    """Questions of a JSONL or CSV file, or a JSON list, with question, description and (if there is one) id.

    Without an id, the number of its line names a question, as `tables` names it when answers are read beside it.
    Corpus files fit, and PsyQA's. Raises CbtError with the line (in a list: the place) of everything that is not a
    question, before anything is paid.
    """
    path, problems, questions = Path(path), [], []
    seen: dict[str, int] = {}
    for line, row in reading.rows(path):
        if isinstance(row, reading.Problem):
            problems.append(f"  {row}")
            continue
        given = (row.get(name) for name in reading.ID_FIELDS)
        number = next((one for one in given if one not in (None, "")), line)
        texts = [row.get(name) or "" for name in ("question", "description")]
        if not {"question", "description"} & row.keys():
            fields = ", ".join(map(str, row))[:80]
            problems.append(f"  line {line}: no field question and none description (it has {fields or 'none'})")
        elif not all(isinstance(text, str) for text in texts):
            problems.append(f"  line {line}: question and description have to be texts")
        elif all(map(reading.says_nothing, texts)):
            problems.append(f"  line {line}: no question and no description")
        elif isinstance(number, bool) or not isinstance(number, str | int) or not str(number).strip():
            problems.append(f"  line {line}: the id {number!r} names nothing; give a text or a whole number")
        elif (name := str(number)) in seen:
            problems.append(f"  line {line}: the id {name} stands on line {seen[name]} already")
        else:
            seen[name] = line
            questions.append(Question(name, *texts))
    if problems or not questions:
        more = [f"  … and {len(problems) - 20} more"] if len(problems) > 20 else []
        raise CbtError("\n".join([f"{path}: nothing was sent", *(problems or ["  no question in it"])[:20], *more]))
    return questions
