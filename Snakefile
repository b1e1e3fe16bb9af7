# The graph of pages for one profile, then the book.
#
#   snakemake --cores 2 --scheduler greedy --rerun-triggers params input     what `cbt book` runs
#   snakemake --cores 2 --config profile=gpu -- pages     only the pages
#   snakemake --profile workflow/slurm --config profile=paper -- pages
#
# Each rule carries the fingerprint of what its page depends on, and reruns when that changes: with these triggers a
# touched file is no reason.
import sys

from cbtlib import book, run

PROFILE = config.get("profile", "embedded")
RESULTS = config.get("results", "results")


def executed(page):
    return f"{RESULTS}/{PROFILE}/{page}/{page}.ipynb"


rule all:
    input:
        "_build/html/index.html",


rule pages:
    input:
        [executed(page) for page in run.PAGES],


for page, spec in run.PAGES.items():
    # What other pages need of this one. Products may be long work: `update` keeps them when the page runs again.
    needed = {name for other in run.PAGES.values() for name in other["needs"].get(page, [])} - {"metrics.json"}

    rule:
        name:
            page
        input:
            [f"{RESULTS}/{PROFILE}/{other}/{name}" for other, names in spec["needs"].items() for name in names],
        output:
            executed(page),
            f"{RESULTS}/{PROFILE}/{page}/metrics.json",
            f"{RESULTS}/{PROFILE}/{page}/run.json",
            [update(f"{RESULTS}/{PROFILE}/{page}/{name}") for name in sorted(needed)],
        params:
            page=page,  # the shell line is formatted when the job runs, long after this loop
            fingerprint=run.fingerprint(page, PROFILE),
        threads: 1 if spec.get("light") else workflow.cores
        shell:
            "{sys.executable:q} -m cbtlib run notebooks/{params.page}.py --profile {PROFILE:q} --results {RESULTS:q}"


rule site:
    input:
        rules.pages.input,
    output:
        "_build/html/index.html",
    params:
        fingerprint=book.fingerprint(),
    shell:
        "{sys.executable:q} -m cbtlib.book {PROFILE:q} {RESULTS:q}"
