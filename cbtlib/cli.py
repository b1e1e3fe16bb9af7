"""The `cbt` command: options, a call into the library, and what is printed of the result.

Heavy imports stand inside the functions, so that `cbt --help` answers at once.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cbtlib import CbtError, duration, markup

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="CBT-LLM, reproduced."
)

corpus_app = typer.Typer(no_args_is_help=True, help="Check, describe and export the corpus or your own file.")
distortions_app = typer.Typer(no_args_is_help=True, help="Detect and count cognitive distortions.")
ratings_app = typer.Typer(no_args_is_help=True, help="Make and analyse human rating sheets.")
safety_app = typer.Typer(no_args_is_help=True, help="Crisis triage and its measured recall.")
app.add_typer(corpus_app, name="corpus")
app.add_typer(distortions_app, name="distortions")
app.add_typer(ratings_app, name="ratings")
app.add_typer(safety_app, name="safety")
generate_app = typer.Typer(
    invoke_without_command=True, help="Answer questions through an endpoint, resumably and costed."
)
app.add_typer(generate_app, name="generate")


@app.command()
def run(
    notebook: Annotated[Path, typer.Argument(help="notebooks/03_distortion_statistics.py, say")],
    profile: Annotated[str, typer.Option(help="a file of notebooks/profiles, without .yml")] = "embedded",
    parameter: Annotated[list[str] | None, typer.Option("-p", help="name=value, over the profile's")] = None,
    results: Annotated[str, typer.Option(help="folder for products, relative to the repository")] = "results",
) -> None:
    """Run one chapter with a profile; its products land in results/<profile>/<chapter>/."""
    import yaml

    from cbtlib import run as runner

    given = {}
    for text in parameter or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise CbtError(f"-p {text}: write name=value")
        try:
            given[name] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError):  # the latter for a date that there is not
            raise CbtError(f"-p {text}: the value is no YAML; close its brackets, or put it into quotes") from None
    print(runner.run(notebook, profile, given, results))


@app.command()
def book(
    profile: Annotated[str, typer.Option(help="a file of notebooks/profiles, without .yml")] = "embedded",
    results: Annotated[str, typer.Option(help="folder for products, relative to the repository")] = "results",
) -> None:
    """Run every chapter whose inputs changed, then build the book (what `make book` does)."""
    from cbtlib import book as builder

    builder.make_book(profile, results)


@app.command()
def serve(port: Annotated[int, typer.Option(help="port on this machine")] = 8000) -> None:
    """Serve the built book on this machine."""
    from cbtlib import book as builder

    builder.serve(port)


@app.command()
def student(out: Annotated[Path, typer.Option(help="folder to write into")] = Path("student")) -> None:
    """Write each chapter's exercises as a notebook without solutions (what `make student` does)."""
    from cbtlib import student as exercises

    for path in exercises.make(out):
        print(path)


@app.command()
def slides(
    profile: Annotated[str, typer.Option(help="whose run to show")] = "embedded",
    results: Annotated[str, typer.Option(help="folder for products, relative to the repository")] = "results",
    out: Annotated[Path, typer.Option(help="folder to write into")] = Path("slides"),
) -> None:
    """Make reveal.js slides of every chapter that has run; they open without a network (what `make slides` does)."""
    from cbtlib import slides as decks

    for path in decks.make(profile, results, out):
        print(path)


@app.command()
def doctor() -> None:
    """Check Python, pins, memory, disk, the embedded model and fonts; say what to do about each failure."""
    from cbtlib import doctor as checks

    raise typer.Exit(0 if checks.doctor() else 1)


@app.command()
def claims(
    profile: Annotated[str, typer.Option(help="whose run to compare")] = "embedded",
    reproduce: Annotated[bool, typer.Option("--reproduce", help="against results/reference, not the paper")] = False,
    publish: Annotated[
        bool, typer.Option("--publish", help="replace results/reference by this run, on purpose")
    ] = False,
) -> None:
    """Print the paper's claims against a run, or a run against the published numbers."""
    from cbtlib import report, reproducing, run

    run.profile_parameters(profile, "claims")  # a wrong profile name is no run to compare
    if publish:
        print(report.publish(profile))
        if profile == "embedded":  # the one that README shows
            print(reproducing.renew_readme())
        return
    table = report.reproduce(profile) if reproduce else report.claims(profile)
    print(table.to_string(max_colwidth=60))
    if reproduce and not table["holds"].all():
        raise CbtError(f"{(~table['holds']).sum()} of {len(table)} numbers lie outside their tolerance")


@corpus_app.command("check")
def corpus_check(
    paths: Annotated[list[Path] | None, typer.Argument(help="files; the book's own corpus when none is named")] = None,
    against: Annotated[list[Path] | None, typer.Option(help="training file that these must not overlap")] = None,
    format: Annotated[str, typer.Option(help="form of the files, as cbtlib.formats names it")] = "auto",
    support: Annotated[int, typer.Option(help="positives a label needs to be scored")] = 6,
    normalise: Annotated[
        list[str] | None, typer.Option(help="width or simplified: compare texts in this form; again for both")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="findings as JSON on standard output")] = False,
) -> None:
    """Pass files through every gate (copies, leaks, refusals, spans, …); exit code 1 when there is a finding."""
    import json
    from dataclasses import asdict

    from cbtlib import corpus, gates

    report = gates.check(paths or corpus.own_files(), against or (), format, support, normalise or ())
    if as_json:
        print(json.dumps({**asdict(report), "counts": report.counts}, ensure_ascii=False, indent=1))
    else:
        for found in report.findings:
            line = f"{found.gate:15} {found.where}  {found.what}" + (f"  ({found.other})" if found.other else "")
            print(markup.visible(line))
        for form, count in report.normalised.items():
            print(f"normalised to {form}: {count} characters changed")
        print(f"{report.lines} read = {report.kept} kept + {report.lines - report.kept} with a problem")
        print("  ".join(f"{gate} {count}" for gate, count in report.counts.items()))
    raise typer.Exit(1 if report.findings else 0)


def _records(paths: list[Path] | None) -> list[Path]:
    """The files that hold records; CbtError for one in another form."""
    from cbtlib import corpus, formats

    for path in filter(Path.is_file, paths or ()):
        if not formats.is_records(path):
            raise CbtError(f"{path} holds no records of the book's own form: `cbt corpus aggregates` describes others")
    return paths or corpus.own_files()


@corpus_app.command("quality")
def corpus_quality(
    paths: Annotated[list[Path] | None, typer.Argument(help="files in the book's form (default: its own)")] = None,
    beside: Annotated[
        Path | None, typer.Option(help="another set in any known form, PsyQA say, to compare with")
    ] = None,
    format: Annotated[str, typer.Option(help="form of the other set, as cbtlib.formats names it")] = "auto",
) -> None:
    """Measure lengths, labels, variety and how far each letter answers its own post."""
    from cbtlib import corpus, formats, quality

    records = corpus.load_all(_records(paths))
    print(quality.card(records))
    if beside:
        own = quality.aggregates([formats.of_record(record) for record in records])
        other = quality.aggregates(formats.load(beside, format))
        print("\n" + quality.markdown(quality.beside({"these": own, beside.name: other})))


@corpus_app.command("aggregates")
def corpus_aggregates(
    path: Annotated[Path, typer.Argument(help="a set in any known form, with answers")],
    format: Annotated[str, typer.Option(help="form of the file, as cbtlib.formats names it")] = "auto",
) -> None:
    """Print figures of a set as JSON that hold none of its text (how data/psyqa_sample.json was made)."""
    import json

    from cbtlib import cache, formats, quality

    figures = quality.aggregates(formats.load(path, format))
    print(json.dumps({"sha256": cache.sha256(path), **figures}, indent=1))


@distortions_app.command("benchmark")
def distortions_benchmark(
    train: Annotated[Path, typer.Option(help="labelled file to learn from")],
    test: Annotated[
        Path | None, typer.Option(help="labelled file to score on; without it, five parts of --train")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for tables and detectors")] = Path("results/distortions"),
    format: Annotated[str, typer.Option(help="records, socialcd3k, cogdis, cbt-bench, c2d2, csv or auto")] = "auto",
    test_format: Annotated[str | None, typer.Option(help="form of --test, where it is another")] = None,
    detector: Annotated[
        list[str] | None, typer.Option(help="probe (default), lora, llm, extract or characters; again to compare")
    ] = None,
    optimise: Annotated[str, typer.Option(help="what thresholds serve: macro- or micro-F1")] = "macro",
    book_types: Annotated[
        bool, typer.Option("--book-types", help="map both files' labels to the book's types")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="model that llm asks at OPENAI_BASE_URL; by default the embedded one")
    ] = None,
    budget: Annotated[float | None, typer.Option(help="dollars that llm never exceeds")] = None,
    seed: Annotated[int, typer.Option(help="of folds and resamples")] = 0,
) -> None:
    """Train detectors on gold labels and score them, per type and averaged, with intervals."""
    from cbtlib import commands

    options = {"average": optimise, "book_types": book_types, "test_format": test_format, "seed": seed}
    commands.benchmark(train, test, out, format, detector or ["probe"], model, budget, options)


@distortions_app.command("label")
def distortions_label(
    path: Annotated[Path, typer.Argument(help="posts: any format of the book, or plain text, one a line")],
    detector: Annotated[Path | None, typer.Option(help="folder of a saved detector; the book's own without it")] = None,
    out: Annotated[Path, typer.Option(help="JSON Lines file to write")] = Path("labels.jsonl"),
    format: Annotated[str, typer.Option(help="form of the file")] = "auto",
) -> None:
    """Label posts with a saved detector."""
    from cbtlib import labelling, writing

    writing.apart(out, path)
    levels = labelling.label(path, out, detector, format)
    without = levels.pop(labelling.NO_DATA, 0)
    print(f"{levels.total()} posts labelled; {out}")
    if without:
        print(f"{without} rows say that they are no data: their outcome stands there, and no labels")
    if levels["crisis"]:
        print(f"{levels['crisis']} of them triage as a crisis: a label is no answer there, see cbtlib.safety.REFERRAL")


@distortions_app.command("statistics")
def distortions_statistics(
    path: Annotated[Path, typer.Argument(help="records, answers.jsonl of a run, labels.jsonl, or any labelled file")],
    out: Annotated[Path, typer.Option(help="folder for tables and figures")] = Path("results/statistics"),
    format: Annotated[str, typer.Option(help="form of the file")] = "auto",
    language: Annotated[str, typer.Option(help="of the labels in figures: en, zh or both")] = "both",
) -> None:
    """Count the labels of a set: shares with intervals, pairs, sets, topics, lengths, order; tables and figures."""
    from cbtlib import label_figures

    labelled = label_figures.read(path, format)
    for line in label_figures.write(labelled, out, language):
        print(line)


@corpus_app.command("card")
def corpus_card() -> None:
    """Renew what is computed in the data card, the Croissant file and the checksums of the book's own corpus."""
    from cbtlib import ROOT, datacard

    for path in datacard.renew(ROOT / "data"):
        print(path)


@corpus_app.command("export")
def corpus_export(
    paths: Annotated[list[Path] | None, typer.Argument(help="files in the book's form (default: its own)")] = None,
    to: Annotated[str, typer.Option(help="parquet, alpaca, sharegpt or openai-batch")] = "parquet",
    out: Annotated[Path, typer.Option(help="folder to write into")] = Path("results/export"),
    model: Annotated[str, typer.Option(help="model that an openai-batch asks")] = "",
) -> None:
    """Write the corpus in a form that another tool reads as it is."""
    from cbtlib import corpus, exports

    records = corpus.load_all(_records(paths))
    for path in exports.export(records, to, out, model=model):
        print(path)


@app.command()
def score(
    hyp: Annotated[Path, typer.Option(help="answers: JSON Lines of id, outcome, text; or plain lines (.txt)")],
    ref: Annotated[list[Path], typer.Option(help="references: a corpus file or plain lines; again for more sets")],
    base: Annotated[
        list[Path] | None, typer.Option(help="answers of another system, compared on the same items; again for more")
    ] = None,
    train: Annotated[
        list[Path] | None, typer.Option(help="what was trained on: every column is looked into for leaks")
    ] = None,
    allow_leak: Annotated[bool, typer.Option(help="score in spite of a leak, and say so in the signature")] = False,
    metric: Annotated[list[str] | None, typer.Option(help="only this metric; again for more")] = None,
    encoder: Annotated[str, typer.Option(help="model of bertscore: embedded, a folder or a hub id")] = "embedded",
    layer: Annotated[int, typer.Option(help="its layer, from 1; 0 chooses it by the model's name")] = 0,
    idf: Annotated[bool, typer.Option("--idf", help="weight bertscore's tokens by rarity")] = False,
    bleurt: Annotated[Path | None, typer.Option(help="folder of a BLEURT checkpoint")] = None,
    bleurt_python: Annotated[str, typer.Option(help="a Python that has Google's bleurt package")] = "python3",
    normalise: Annotated[
        list[str] | None, typer.Option(help="width or simplified: bring all texts into this form; again for both")
    ] = None,
    resamples: Annotated[int, typer.Option(help="bootstrap resamples and randomisation trials")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="of resampling")] = 0,
    json_out: Annotated[Path | None, typer.Option("--json", help="write everything here")] = None,
) -> None:
    """Score answers against references: every value with its interval and signature."""
    import pandas as pd

    from cbtlib import metrics, pairing, writing

    if json_out:
        writing.apart(json_out, hyp, *ref, *(base or ()), *(train or ()))

    def prepare() -> None:
        if metric and "bertscore" in metric:
            from cbtlib import bertscore

            metrics.METRICS["bertscore"] = bertscore.metric(bertscore.encoder(encoder, layer), idf)

    if bleurt:
        from cbtlib import bleurt as outside

        metrics.METRICS["bleurt"] = outside.metric(bleurt, bleurt_python)
    found = pairing.score(
        hyp, ref, bases=base or (), training=train or (), allow_leak=allow_leak, names=metric or (),
        normalise=normalise or (), resamples=resamples, seed=seed, prepare=prepare,
    )  # fmt: skip
    for system, rows in found["scores"].items():
        counts = ", ".join(f"{count} {outcome}" for outcome, count in found["outcomes"][system].items())
        print(f"\n{system}: {counts}")
        shown = pd.DataFrame(rows).drop(columns="signature").fillna(float("nan"))
        print(shown.to_string(index=False, na_rep="-", float_format="{:.4g}".format))
    for name, why in found["not_run"].items():
        print(f"{name:>12} {why}")
    if found["differences"]:
        print(f"\n{hyp} minus each base, on the items that both answered (p_holm over all of these rows)")
        shown = pd.DataFrame(found["differences"]).drop(columns=["system", "signature"]).fillna(float("nan"))
        print(shown.to_string(index=False, na_rep="-", float_format="{:.4g}".format))
    print("" if train else "\nno --train was given: whether the model has seen these items was not looked at\n")
    for row in found["scores"][str(hyp)]:
        print(row["signature"])
    if json_out:
        writing.write_json(json_out, found)


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="folder of the run; the same command continues it")] = Path("results/train"),
    profile: Annotated[str, typer.Option(help="smoke, embedded, gpu or paper")] = "embedded",
    data: Annotated[Path | None, typer.Option(help="training records; the book's own when not named")] = None,
    dev: Annotated[Path | None, typer.Option(help="dev records; the book's own when not named")] = None,
    model: Annotated[str | None, typer.Option(help="embedded, smoke, a folder or a hub id")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="name=value of a TrainingConfig field")] = None,
    plan: Annotated[bool, typer.Option(help="print parameters, memory and minutes; train nothing")] = False,
    export: Annotated[str, typer.Option(help="llama-factory or axolotl: write its files to --out; train nothing")] = "",
    merge: Annotated[bool, typer.Option(help="also write the model with the adapter merged in, to OUT/merged")] = False,
) -> None:
    """Tune a LoRA adapter: loss on answer tokens only, resumable, with a model card."""
    from cbtlib import corpus, handover, planning, runs, training

    config = training.configure(profile, model, setting or [])
    if export:
        handover.check(config, export)
    rows = training.read(data) if data else corpus.load_split("train")
    dev_rows = training.read(dev) if dev else corpus.load_split("dev")
    if plan:
        print(planning.plan(rows, dev_rows, config))
        return
    if export:
        training.check(rows, dev_rows, config)
        print(*handover.export(rows, dev_rows, config, export, out), sep="\n")
        return
    result = training.train(rows, dev_rows, config, out)
    if not runs.first_process():
        return
    first, last = result.dev_losses[0], result.dev_losses[-1]
    print(f"{result.adapter}: dev loss {first:.3f} -> {last:.3f} in {duration(result.seconds)}")
    if merge and not (out / "merged").exists():  # it is there whole or not at all
        runs.merge(result.adapter, out / "merged")
    if merge:
        print(out / "merged")


@app.command()
def answer(
    adapter: Annotated[Path, typer.Option(help="adapter folder that `cbt train` has left")],
    questions: Annotated[Path, typer.Option(help="JSONL, JSON or CSV with question, description (and id)")],
    out: Annotated[Path, typer.Option(help="folder of this run; the same one again goes on")],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="longest answer in tokens")] = 700,
    temperature: Annotated[float, typer.Option(min=0, help="sampling temperature; 0 takes the likeliest token")] = 0.7,
    seed: Annotated[int, typer.Option(min=0, help="sampling seed")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="questions that are answered together")] = 48,
    triage: Annotated[str, typer.Option(help="full (rules and classifier) or rules")] = "full",
) -> None:
    """Answer questions with a tuned adapter, in its own template; the answers are for `cbt score`, `cbt ratings`."""
    from cbtlib import answering, commands

    settings = answering.Settings(max_new_tokens, temperature, seed)
    counts = answering.answer(adapter, questions, out, settings, commands.classifier(triage), batch_size)
    print("  ".join(f"{outcome} {count}" for outcome, count in counts.items()))
    print(out / "answers.jsonl")


@app.command()
def convert(
    folder: Annotated[Path, typer.Argument(help="model folder in Baichuan-7B's or Qwen-7B's own layout")],
    out: Annotated[Path, typer.Argument(help="folder to write: Llama or Qwen2 layout, safetensors")],
) -> None:
    """Bring a Baichuan-7B or Qwen-7B checkpoint (CBT-LLM's among them) into a layout that loads."""
    from cbtlib import backbones

    print(backbones.convert(folder, out))


@ratings_app.command("sheet")
def ratings_sheet(
    answers: Annotated[list[str], typer.Argument(help="SYSTEM=answers.jsonl, one for each system")],
    posts: Annotated[
        list[Path], typer.Option(help="the questions that were answered, or a corpus file; again for more")
    ],
    rater: Annotated[list[str], typer.Option(help="name or code of a rater; again for more")],
    out: Annotated[Path, typer.Option(help="folder for the forms and the key")],
    seed: Annotated[int, typer.Option(min=0, help="of codes and orders")] = 0,
) -> None:
    """Make blinded rating forms: HTML (offline), CSV, Label Studio, Argilla; key.json stays with you."""
    from cbtlib import forms

    texts, systems = _posts_and_answers(posts, answers)
    key = forms.make(texts, systems, rater, out, seed)
    print(f"{len(key['codes'])} replies for each of {len(rater)} raters: {out}/form_<rater>.html (or .csv)")
    for name, counts in key["outcomes"].items():
        print(f"  {name}: {', '.join(f'{count} {outcome}' for outcome, count in counts.items())}")
    print(f"Keep {out / 'key.json'} from the raters: it says which system wrote what.")


@ratings_app.command("analyse")
def ratings_analyse(
    files: Annotated[list[Path], typer.Argument(help="what raters sent back: JSON or CSV")],
    key: Annotated[Path, typer.Option(help="the key.json of the sheet")],
    json_out: Annotated[Path | None, typer.Option("--json", help="write the tables here")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of resampling")] = 0,
) -> None:
    """Means, agreement, rater bias and system differences, all with intervals, and a power table."""
    import json
    from dataclasses import fields

    from cbtlib import forms, ratings, writing

    if json_out:
        writing.apart(json_out, key, *files)
    analysis = ratings.analyse(forms.read(files, forms.read_key(key)), seed=seed)
    tables = {one.name: getattr(analysis, one.name) for one in fields(analysis) if one.name != "notes"}
    for name, table in tables.items():
        print(f"\n{name}\n{table.round(3).to_string(index=False, na_rep='-') if len(table) else 'none'}")
    for note in analysis.notes:
        print(f"note: {note}")
    if json_out:
        whole = {name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}
        writing.write_json(json_out, {**whole, "notes": analysis.notes})


@ratings_app.command("judge")
def ratings_judge(
    answers: Annotated[list[str], typer.Argument(help="SYSTEM=answers.jsonl, one for each system")],
    posts: Annotated[
        list[Path], typer.Option(help="the questions that were answered, or a corpus file; again for more")
    ],
    model: Annotated[str, typer.Option(help="the judge, at OPENAI_BASE_URL")],
    contestant: Annotated[list[str], typer.Option(help="SYSTEM=MODEL, one for each system: no model judges itself")],
    out: Annotated[Path, typer.Option(help="folder of this run; the same one again goes on")],
    language: Annotated[str, typer.Option(help="of the rubric: zh or en")] = "zh",
    repeats: Annotated[int, typer.Option(min=1, help="ask everything that often, for self-consistency")] = 1,
    temperature: Annotated[float, typer.Option(min=0, help="of the judge; above 0 when it is asked again")] = 0.0,
    concurrency: Annotated[int, typer.Option(min=1, help="calls at once")] = 4,
    against: Annotated[list[Path] | None, typer.Option(help="what raters sent back; again for more")] = None,
    key: Annotated[Path | None, typer.Option(help="the key.json of their sheet")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of resampling")] = 0,
) -> None:
    """Let a language model judge all pairs, blind and in both orders; say how far it agrees with people."""
    import json
    from collections import Counter
    from dataclasses import asdict

    from cbtlib import cache, endpoint, forms, metrics, resampling, writing
    from cbtlib import judge as judging

    texts, systems = _posts_and_answers(posts, answers)
    human = forms.read(against, forms.read_key(key)).dropna() if against and key else None
    criteria = [] if human is None else list(human["criterion"].unique())
    if bool(against) != bool(key):
        raise CbtError("--against FILE and --key FILE belong together: without the key no rating has a system")
    models = _named(contestant, "SYSTEM=MODEL")
    busy = f"another process is judging in {out}: wait for it, or take another folder"
    with cache.alone(writing.make_folder(out) / "run.lock", busy), endpoint.connect(model) as where:
        setting = f"temperature {temperature:g} at {where.fingerprint}"
        given = judging.verdicts(
            texts, systems, judging.endpoint_ask(where, temperature), judge=model, contestants=models,
            repeats=repeats, setting=setting, journal=out / "verdicts.jsonl", workers=concurrency,
            language=language,  # type: ignore[arg-type]
        )  # fmt: skip
    found = judging.analyse(given, seed=seed)
    compared, counts = metrics.outcomes(systems)
    for system, outcomes in counts.items():
        print(f"{system}: {', '.join(f'{count} {outcome}' for outcome, count in outcomes.items())}")
    print(f"compared on the {len(compared)} posts that all of them answered:", end=" ")
    print(", ".join(f"{count} {outcome}" for outcome, count in found.outcomes.items()), "calls;", end=" ")
    print(f"{found.pairs_missing} pairs without a verdict in both orders are left out")
    for reason, times in Counter(one.detail for one in given if one.outcome == "failed").most_common(1):
        print(f"{found.outcomes['failed']} calls failed, {times} of them with {reason!r}; the same command asks again")
    for table in (found.wins, found.neighbours):
        print(f"\n{table.round(3).to_string(index=False, na_rep='-')}")
    print()
    whole = {name: table for name, table in asdict(found).items() if not hasattr(table, "to_json")}
    whole |= {"judge": model, "setting": setting, "language": language, "answers": counts, "compared": len(compared)}
    for name in ("first_wins", "consistency", "self_consistency"):
        value, low, high = whole[name]
        print(f"{name}: {value:.2f}{resampling.span(low, high)}" if value == value else f"{name}: not asked")
        whole[name] = None if value != value else {"value": value, "low": low, "high": high}
    whole |= {name: json.loads(getattr(found, name).to_json(orient="records")) for name in ("wins", "neighbours")}
    whole["against"] = {one: judging.against(given, human, one, seed=seed) for one in criteria}  # type: ignore[arg-type]
    for name, agreed in whole["against"].items():
        print(f"against people, {name}: kappa {agreed['kappa']:.2f}", end="")
        print(f"{resampling.span(agreed['low'], agreed['high'])}, {agreed['pairs']} pairs: {agreed['verdict']}")
    if not criteria:
        print("no human ratings were given (--against): nobody knows whether this judge is right")
    writing.write_json(out / "judge.json", writing.without_nan(whole))


def _named(texts: list[str], form: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not name or not value:
            raise CbtError(f"{text}: write {form}")
        if name in found:
            raise CbtError(f"{text}: {name} stands for {found[name]} already; give every system a name of its own")
        found[name] = value
    return found


def _posts_and_answers(posts: list[Path], answers: list[str]) -> tuple[dict[str, str], dict[str, dict[str, tuple]]]:
    """The posts by id, and what each SYSTEM=FILE holds; an answer to a crisis post is for nobody to read or judge."""
    from cbtlib import answers as answered
    from cbtlib import corpus, formats, pairing, questions

    sides = {n: pairing.read(Path(path)) for n, path in _named(answers, "SYSTEM=answers.jsonl").items()}
    systems = {name: side.texts for name, side in sides.items()}
    texts: dict[str, str] = {}
    for path in posts:
        for one in corpus.load(path) if formats.is_records(path) else questions.read_questions(path):
            if texts.get(one.id, one.post) != one.post:
                raise CbtError(f"{path}: id {one.id!r} is that of another post in another --posts file; rename one")
            texts[one.id] = one.post
            for given in systems.values() if getattr(one, "crisis", False) else ():
                if one.id in given:
                    given[one.id] = ("crisis", "")
    for side in sides.values():
        for item, digest in side.digests.items():
            if item in texts:
                answered.check(item, texts[item], digest, side.path)
    return texts, systems


def main() -> None:
    """Run the command line; a reader's mistake becomes one sentence and exit code 1."""
    for stream in (sys.stdout, sys.stderr):  # a pipe or file on Windows has a code page, which lacks characters
        if stream is not None:  # there is none without a console
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        app()
    except CbtError as error:
        print(f"cbt: {markup.visible(str(error))}", file=sys.stderr)
        sys.exit(1)


@generate_app.callback()
def generate(
    context: typer.Context,
    questions: Annotated[
        Path | None, typer.Option(help="JSONL, JSON or CSV with question, description (and id)")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder of this run; the same one again goes on")] = None,
    model: Annotated[str | None, typer.Option(help="model at the endpoint; embedded and smoke are served here")] = None,
    base_url: Annotated[str | None, typer.Option(help="instead of OPENAI_BASE_URL; the key is OPENAI_API_KEY")] = None,
    prompt: Annotated[str | None, typer.Option(help="a file of cbtlib/prompts (five_parts_json)")] = None,
    profile: Annotated[str | None, typer.Option(help="model, prompt and limit of chapter 02 in this profile")] = None,
    concurrency: Annotated[int, typer.Option(help="requests in flight")] = 8,
    deadline: Annotated[float, typer.Option(help="seconds an attempt may take")] = 120,
    attempts: Annotated[int, typer.Option(help="attempts at one question in this run")] = 6,
    rpm: Annotated[float | None, typer.Option(help="requests a minute")] = None,
    tpm: Annotated[float | None, typer.Option(help="tokens a minute")] = None,
    temperature: Annotated[float, typer.Option(help="sampling temperature")] = 0.7,
    max_tokens: Annotated[int | None, typer.Option(help="longest answer in tokens (1024)")] = None,
    seed: Annotated[int, typer.Option(help="sampling seed")] = 0,
    body: Annotated[str, typer.Option(help="JSON merged into each request; null removes a field")] = "{}",
    budget: Annotated[float | None, typer.Option(help="dollars that are never exceeded")] = None,
    price_file: Annotated[Path | None, typer.Option("--prices", help="instead of data/prices.csv")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="ask a sample, forecast the whole")] = False,
    sample: Annotated[int, typer.Option(help="questions a dry run asks (they count for the run)")] = 20,
    shard: Annotated[str | None, typer.Option(help="i/n: the i-th of n parts, by key")] = None,
    triage: Annotated[str, typer.Option(help="full (rules and classifier) or rules")] = "full",
    batch: Annotated[str | None, typer.Option(help="submit, status or collect: by the Batch API")] = None,
    replay: Annotated[Path | None, typer.Option(help="journal to take every reply from; nobody is asked")] = None,
) -> None:
    """Answer every question once; kill it and give the same command to go on."""
    if context.invoked_subcommand:
        return
    if questions is None or out is None:
        raise CbtError("cbt generate needs --questions FILE and --out DIR")
    from cbtlib import commands

    options = {name: value for name, value in context.params.items() if name != "context"}
    commands.generate(**options)


@generate_app.command("merge")
def generate_merge(
    folders: Annotated[list[Path], typer.Argument(help="folders of the shards")],
    out: Annotated[Path, typer.Option(help="folder that gets the union of their journals")],
) -> None:
    """Bring the journals of shards together; then run `cbt generate` over all questions into --out."""
    from cbtlib import generate

    print(f"{generate.merge(folders, out)} attempts taken over into {out}")


@generate_app.command("gates")
def generate_gates(
    questions: Annotated[Path, typer.Option(help="the file that was answered")],
    out: Annotated[Path, typer.Option(help="folder of the run")],
) -> None:
    """Look at the ok answers of a run with nine gates; those that pass become the data set OUT/accepted."""
    from cbtlib import answers, screening, writing
    from cbtlib.questions import read_questions

    posts = read_questions(questions)
    stopped = screening.screen_run(posts, out)
    print(screening.counts(stopped).to_string(index=False))
    writing.write_csv(out / "gates.csv", stopped.astype(int))
    print(answers.export(posts, out, set(stopped.index[stopped.any(axis=1)])))


@safety_app.command("evaluate")
def safety_evaluate(
    data: Annotated[Path, typer.Option(help="JSONL, CSV or TSV with a text and a label a row")],
    text: Annotated[str | None, typer.Option(help="name of the text column")] = None,
    label: Annotated[str | None, typer.Option(help="name of the label column")] = None,
    positive: Annotated[list[str] | None, typer.Option(help="label that means crisis; again for more")] = None,
    negative: Annotated[
        list[str] | None, typer.Option(help="label that means none; again for more, where there are several others")
    ] = None,
    triage: Annotated[str, typer.Option(help="full (rules and classifier) or rules")] = "full",
) -> None:
    """Measure the crisis triage on labelled posts: recall and precision with intervals. Prints no post.

    Where posts are among those that the classifier was fitted on, the same figures follow without these.
    """
    import numpy as np
    import pandas as pd

    from cbtlib import commands, risk, safety

    commands.check_triage(triage)
    texts, crisis = safety.read_labelled(data, text, label, positive or (), negative or ())
    rules = [safety.triage(text) for text in texts]
    tables = {"rules": (rules, crisis)}
    if triage == "full":
        seen = risk.seen(texts)
        if seen.all():
            raise CbtError(
                f"{data}: all {len(texts)} posts are, or nearly are, what the classifier was fitted on, so this would "
                "be no test; give posts that it has not seen, or measure the rules alone with --triage rules"
            )
        tables["full"] = risk.load().look(texts, rules), crisis
        if seen.any():
            print(f"{seen.sum()} of {len(texts)} posts are, or nearly are, what the classifier was fitted on")
            new = np.flatnonzero(~seen).tolist()
            tables |= {
                f"{name}, new": ([found[i] for i in new], [crisis[i] for i in new])
                for name, (found, _) in tables.items()
            }
    table = pd.concat({name: safety.evaluate(*given) for name, given in tables.items()}).droplevel(1)
    print(table.round(3).T.to_string())


@safety_app.command("fit")
def safety_fit() -> None:
    """Make the classifier of triage anew from data/risk_posts.jsonl."""
    from cbtlib import risk

    risk.save(risk.fit())
    print(risk.WEIGHTS)
