"""Answers of a tuned adapter to the questions of a file, for `cbt score` and `cbt ratings sheet`.

Chapter 5 does this for the book's own posts. Notable choices:

- The model reads what it was trained behind: template and end mark are those that the adapter's training.json names.
- A post that triages as a crisis is shown to no model. What is no answer is a line with its outcome, as in `generate`.
- answers.jsonl is there when every question has its line. Until then unfinished.jsonl holds what is done, and the same
  command goes on behind it; another adapter, file or setting is refused there.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cbtlib import CbtError, cache, generate, models, progress, reading, runs, sampling, templates, writing
from cbtlib.answers import OUTCOMES, Answer, Outcome, read_answers, to_line, write_lines
from cbtlib.questions import Question, read_questions
from cbtlib.safety import Level

if TYPE_CHECKING:
    from cbtlib.risk import Classifier

BLOCK = 240
"""Questions that are answered before their answers are kept."""
ANEW = "remove it, and the same `cbt answer` answers its questions anew"


@dataclass(frozen=True, slots=True)
class Settings:
    """How answers are drawn. With the same settings they are the same but for rounding, whatever shares a batch."""

    max_new_tokens: int = 700
    temperature: float = 0.7
    seed: int = 0


def answer(
    adapter: Path | str,
    questions: Path | str,
    out: Path | str,
    settings: Settings | None = None,
    classifier: "Classifier | None" = None,
    batch_size: int = 48,
) -> dict[str, int]:
    """Answer every question of a file once into `out`/answers.jsonl; returns how many came to each outcome.

    `adapter` is the folder that `cbt train` leaves. CbtError for a file that holds what is no question, before the
    model is loaded, and for a folder with other answers in it.
    """
    adapter, out, settings = Path(adapter), Path(out), settings or Settings()
    place, done, rest = out / "run.json", out / "answers.jsonl", out / "unfinished.jsonl"
    for product in (place, done, rest):
        writing.apart(product, Path(questions))
    posts = read_questions(questions)
    run = {
        "adapter": _digest(adapter / "adapter_model.safetensors", adapter / "training.json"),
        "questions": cache.sha256(Path(questions)),
        "triage": generate.triage_name(classifier),
        **asdict(settings),
    }
    writing.make_folder(out)
    with cache.alone(out / "run.lock", f"another process is answering in {out}: wait for it, or take another folder"):
        if not place.exists() and (done.exists() or rest.exists()):
            raise CbtError(f"{out} holds answers without the run.json that says whose: take another folder")
        there = reading.read_json(place, list(run), f"remove {out}") if place.exists() else run
        changed = [name for name in run if there[name] != run[name]]
        if changed:
            raise CbtError(f"{out} holds answers of another run ({', '.join(changed)} changed): take another folder")
        writing.write_json(place, run)
        if not done.exists():
            lines = [to_line(found) for found in read_answers(rest, ANEW)] if rest.exists() else []
            writer = _Writer.load(adapter, settings, batch_size)
            with progress.bar(total=len(posts), initial=len(lines), unit="question", desc="answering") as bar:
                for start in range(len(lines), len(posts), BLOCK):
                    block = posts[start : start + BLOCK]
                    levels = [found.level for found in generate.triage([one.post for one in block], classifier)]
                    lines += map(to_line, writer.answers(block, levels))
                    write_lines(rest, lines)
                    bar.update(len(block))
            rest.replace(done)
    counts = Counter(found.outcome for found in read_answers(done, ANEW))
    return {outcome: counts[outcome] for outcome in OUTCOMES}


@dataclass(frozen=True, slots=True)
class _Writer:
    """A tuned model with all that is needed to ask it."""

    model: Any
    tokenizer: Any
    template: templates.Template
    settings: Settings
    batch_size: int

    @classmethod
    def load(cls, adapter: Path, settings: Settings, batch_size: int) -> "_Writer":
        name = reading.read_json(adapter / "training.json", ["config"], "train it anew")["config"]["template"]
        tuned, tokenizer = runs.load_adapter(adapter, device=models.device())
        model: Any = tuned.merge_and_unload()  # type: ignore[operator]
        return cls(model, tokenizer, templates.adopt(name, tokenizer), settings, batch_size)

    def answers(self, posts: Sequence[Question], levels: Sequence[Level]) -> Iterator[Answer]:
        """What becomes of each post, in their order."""
        asked, unfit = {}, {}
        for post, level in zip(posts, levels, strict=True):
            if level != "crisis":
                try:
                    asked[post.id] = self.prompt(post)
                except CbtError as error:
                    unfit[post.id] = str(error)
        found = dict(zip(asked, self.sample(list(asked.values())), strict=True))
        for post, level in zip(posts, levels, strict=True):
            outcome: Outcome = "crisis"
            text, why = "", "not shown to a model: the fixed referral stands instead"
            if post.id in unfit:
                outcome, why = "failed", unfit[post.id]
            elif post.id in found:
                outcome, why = generate.read_text(found[post.id].text, found[post.id].truncated)
                text = found[post.id].text if outcome == "ok" else ""
            yield Answer(post.id, outcome, text, None, None, None, None, None, why, level, post.digest)

    def prompt(self, post: Question) -> str:
        """What the model reads; CbtError when it cannot read it."""
        prompt = templates.render(post.post, self.template)
        length = len(self.tokenizer(prompt, add_special_tokens=False)["input_ids"])
        room = getattr(self.model.config, "max_position_embeddings", 10**9) - self.settings.max_new_tokens
        if length > room:
            raise CbtError(f"the prompt has {length:,} tokens; beside an answer the model has room for {room:,}")
        return prompt

    def sample(self, prompts: list[str]) -> list[sampling.Sample]:
        stop = templates.stop_ids(self.template, self.tokenizer)
        how = {**asdict(self.settings), "batch_size": self.batch_size, "stop": stop}
        try:
            return sampling.sample(self.model, self.tokenizer, prompts, **how)
        except torch.OutOfMemoryError as error:
            raise CbtError(
                f"the GPU's memory does not hold {self.batch_size} answers at a time: give a smaller --batch-size, "
                "what is answered is kept"
            ) from error


def _digest(*paths: Path) -> str:
    """One SHA-256 over files; CbtError where one is missing."""
    for path in paths:
        if not path.is_file():
            raise CbtError(
                f"{path.parent} holds no adapter of `cbt train` (no {path.name}): name `adapter` in the folder of a "
                "training run, or train one"
            )
    return hashlib.sha256(" ".join(cache.sha256(path) for path in paths).encode()).hexdigest()
