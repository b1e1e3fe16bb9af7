# The book and JupyterLab in a container. UNTRIED: it was written where no container engine ran; tell us what is wrong with it.
#
#   docker build -t cbt-llm .
#   docker run --rm -p 8888:8888 cbt-llm                       JupyterLab; the link it prints opens notebooks/
#   docker run --rm -v cbt-book:/home/reader/book/_build cbt-llm make book
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home reader
USER reader
WORKDIR /home/reader/book
COPY --chown=reader:reader . .
# _build is there before a volume is mounted on it, so that it belongs to the reader
RUN mkdir _build && make .venv/installed
EXPOSE 8888
CMD [".venv/bin/jupyter", "lab", "--ip=0.0.0.0", "--port=8888", "--no-browser"]
