"""Coverage-guided fuzzing of everything that untrusted bytes reach first: `python -m tests.fuzz all --inputs 20000`.

A target is a module in `targets/` with

* `target(data)`, which holds its promises for any bytes: only the documented errors come out, and what comes out is
  right;
* `seeds()`, the inputs that fuzzing starts from, drawn by code;
* `WORDS`, pieces of the format that mutations put in.

`corpus/TARGET` keeps a few inputs that reach what the seeds do not, and, as `broke-...`, inputs that have broken a
promise. The unit tests replay them all.
"""

from pathlib import Path

TARGETS = ("uploads", "messages", "bodies", "tokens", "config")

CORPUS = Path(__file__).parent / "corpus"
