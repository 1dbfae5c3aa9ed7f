"""The local model's server, in a process of its own: llama.cpp's HTTP server on loopback, with a key from stdin.

The first line of stdin is the API key; argv and environment can be read by others. Once the model is loaded one line
of JSON, `{"url": "http://127.0.0.1:PORT"}`, goes to stdout; llama.cpp's warnings go to stderr. The process ends when
stdin does, so it cannot outlive whoever started it, and dies by SIGTERM at any time, the loading of a model included.
"""

import argparse
import json
import os
import signal
import sys
from typing import Any, Final

SLOTS: Final = 2
"""Conversations that are answered at the same time; each has an even share of the context."""

CACHE_MIB: Final = 128
"""What prompts may keep in memory for the next turn; llama.cpp's own default is 8 GiB."""

BATCH: Final = 512
"""Tokens that are computed at a time, and so the longest text that becomes a vector; more takes more memory."""

WARNINGS: Final = 2

NO_KEY: Final = 64
CANNOT_LOAD: Final = 65


def main(argv: list[str]) -> int:
    """Serve until stdin ends, and with it the process; return the exit code 64 without a key, 65 where the model cannot
    be loaded.
    """
    options = _options(argv)
    # Python's own handlers would wait until llama.cpp is done with loading.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    answers = _claim_stdout()
    key = sys.stdin.buffer.readline().decode().strip()
    if not key:
        sys.stderr.write("the first line of stdin must be the API key\n")
        return NO_KEY
    import xllamacpp  # only now is stdout safe from what it prints

    try:
        server = xllamacpp.Server(_params(xllamacpp, options, key))
    except RuntimeError as error:
        sys.stderr.write(f"cannot serve {options.model}: {error}\n")
        return CANNOT_LOAD
    os.write(answers, json.dumps({"url": server.listening_address}).encode() + b"\n")
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(0)  # there is nothing to save, and llama.cpp's own way to end can wait for ever on a busy machine


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="runtime.llm.llama_server")
    parser.add_argument("--model", required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--threads", type=int, default=_cores())
    return parser.parse_args(argv)


def _claim_stdout() -> int:
    """Return a descriptor for the one line we print; whatever else is written to stdout goes to stderr."""
    answers = os.dup(1)
    os.dup2(2, 1)
    return answers


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _params(xllamacpp: Any, options: argparse.Namespace, key: str) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = options.model, {options.alias}
    params.hostnames, params.port, params.api_keys = ["127.0.0.1"], 0, [key]
    params.n_ctx, params.n_parallel = options.context, SLOTS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.embedding, params.pooling_type = True, xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.n_batch = params.n_ubatch = BATCH
    params.use_jinja = True  # the chat template that the model was trained with
    params.warmup, params.cache_ram_mib, params.verbosity = False, CACHE_MIB, WARNINGS
    # Nobody browses this server: no page, no view into other conversations, no origin that may read its answers.
    params.ui, params.endpoint_slots, params.cors_origins = False, False, ""
    return params


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
