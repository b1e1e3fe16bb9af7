"""The thin helper behind *CBT-LLM, reproduced*: one idea a module, nothing a library already has.

    corpus      a record, its schema, splits, leak and defect gates
    prompts     the CBT prompt as versioned text files
    structure   which of the five CBT parts an answer contains
    endpoint    an OpenAI-compatible endpoint: remote, or the embedded model
    generate    many questions to answers, with typed outcomes
    distortions labels, detectors, statistics, corrected prevalence
    safety      crisis triage before generation, the fixed referral
    training    LoRA instruction tuning, loss on answer tokens only
    metrics     BLEU, METEOR, chrF, BERTScore: Chinese-correct, with intervals
    ratings     blinded human rating forms and agreement
    report      the numbers a page writes, claims, provenance
    figures     one style, one CJK font
    run         one notebook, one profile

`figures` and `run` import the others, never the reverse.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The repository: chapters, data and results are found from here (the package is installed in place)."""


class CbtError(Exception):
    """A mistake the reader can mend: its message says what was wrong, where, and what to do.

    The command line prints the message alone and exits with 1; a notebook shows it as the last line.
    """
