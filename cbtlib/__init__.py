"""The thin helper behind *CBT-LLM, reproduced*: one idea a module, nothing a library already has.

Files
    reading             from the bytes of a file to its rows
    writing             from text to a file, whole or not there
    progress            how far long work has come

The corpus
    corpus              a record, its schema, loading with every error named
    formats             other people's files, read into one shape
    gates               what must not be in a corpus: leaks, duplicates, defects
    overlap             exact n-gram overlap for a whole corpus at once
    quality             how good a corpus is as text
    exports             the corpus in the forms other tools read
    datacard            statistics, Croissant and checksums beside the data

Asking a model
    prompts             the CBT prompt and its ablations, as hashed files
    embedded            Gemma 3 270M, converted and trimmed
    gguf_io             reads and writes GGUF files
    models              weights and tokenizer by name, and texts as a model reads them
    cache               a folder made once, whole or not at all
    endpoint            an OpenAI-compatible endpoint, remote or on loopback
    questions           the questions of a run, checked before anything is paid
    generate            many questions to answers, with typed outcomes
    answers             what became of each question, and the data set of the ok ones
    replies             an error message or a refusal where an answer should be
    batch               the Batch API behind the same keys
    sending             many requests at once, paced and within a budget
    journal             every attempt on disk before it is sent
    prices              exact money from a dated price file
    faults              a loopback endpoint that fails on purpose
    screening           which answers must not reach a data set
    safety              crisis triage before generation, the fixed referral
    risk                a classifier for what no rule of triage lists
    flow                a figure of what is left after each step

Reading answers
    structure           which of the five CBT parts an answer contains
    structure_accuracy  how right that reading is
    distortions         the taxonomy, and labels that an answer names
    detectors           distortions in a post, learnt from gold spans
    lora_labels         the model itself tuned to tell them
    llm_labels          a language model asked for labels
    detection           how good a detector is
    second_pass         how far two labelling passes agree
    labelling           benchmark and labelling of whole files
    label_figures       the statistics of any labelled set, drawn
    prevalence          shares, corrected for a detector's errors

Training
    templates           a post and its answer as one string
    backbones           Baichuan-7B and Qwen-7B in layouts that load
    training            LoRA, loss on answer tokens only
    fused               a LoRA layer as one autograd step
    runs                the folder of a run: resumed, finished, never mixed
    handover            a run for LLaMA-Factory or axolotl
    planning            what a run will take, before it starts
    sampling            many prompts to texts
    answering           an adapter answers the questions of a file

Judging
    surface             BLEU, chrF, METEOR for Chinese, as sufficient statistics
    bertscore           BERTScore on any encoder or decoder
    bleurt              BLEURT, in an environment of its own
    metrics             scores with signatures and intervals, behind a leak gate
    resampling          intervals and paired tests
    pairing             answers and references lined up item by item
    tables              a reader's own table, its columns named
    forms               blinded rating forms, and the ratings that come back
    agreement           kappa, alpha and Gwet's AC
    ratings             what human ratings say
    judge               a language model as judge, with the same hygiene

The book
    report              numbers, claims, provenance
    naming              plain names for what files call by machine names
    markup              foreign text as HTML that shows it and does nothing else
    reproducing         a row for each figure: expected, tolerance, command
    figures             one style, one CJK font
    widgets             things to try on a page, whole without script
    run                 one notebook, one profile
    book                the graph of pages, then Jupyter Book
    student             exercises, and the notebooks without solutions
    slides              the chapters as reveal.js slides
    doctor              is this machine ready?
    commands            what `cbt generate` and `cbt distortions benchmark` do beside the library
    cli                 the `cbt` command

Of what stands above *The book*, only `label_figures` imports a module of it.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The repository: chapters, data and results are found from here (the package is installed in place)."""


def shown(path: Path) -> str:
    """A path as messages have it: from the repository on, when it lies there."""
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def duration(seconds: float) -> str:
    """A time as a reader says it: `38 seconds`, `6.4 minutes`, `44.1 hours`."""
    for size, unit in ((3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return "1 second" if round(seconds) == 1 else f"{seconds:.0f} seconds"


class CbtError(Exception):
    """A mistake the reader can mend: its message says what was wrong, where, and what to do.

    The command line prints the message alone and exits with 1; a notebook shows it as the last line.
    """
