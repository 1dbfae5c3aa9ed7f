"""Write a model of chance: a real architecture, tokenizer and chat template with tools, half a megabyte, no meaning.

A small grammar makes it say whatever a test needs, and it computes thousands of tokens a second.
"""

import random
import struct
from array import array
from collections.abc import Iterator
from pathlib import Path

TEMPLATE = (
    "{% if tools %}<|im_start|>system\nTools: {{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] or '' }}"
    '{% for t in m.tool_calls or [] %}<tool_call>{"name": "{{ t.function.name }}",'
    ' "arguments": {{ t.function.arguments | tojson }}}</tool_call>{% endfor %}'
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = [
    "stage",
    "cue",
    "light",
    "prompt",
    "the",
    "of",
    "to",
    "and",
    "in",
    "is",
    "that",
    "it",
    "for",
    "on",
    "with",
    "not",
]

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
WIDTH, LAYERS, HEADS, KV_HEADS, FEED, CONTEXT = 64, 2, 4, 2, 128, 4096
ALIGN = 32

TOOL_CALL, END = 261, 260
"""Numbers of the tokens that begin a tool call and end an answer, for `logit_bias`."""


def write_model(path: Path) -> Path:
    """Write the file and return its path; it is the same every time."""
    tokens = list(_tokens())
    tensors = list(_tensors([kind for _, kind in tokens]))
    meta = _meta(tokens)
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(meta)) + b"".join(meta)
    offset = 0
    for name, shape, data in tensors:
        # The fastest dimension comes first; type 0 is a float of 32 bits.
        dims = struct.pack(f"<{len(shape)}Q", *reversed(shape))
        head += _text(name) + struct.pack("<I", len(shape)) + dims + struct.pack("<IQ", 0, offset)
        offset += _padded(len(data))
    with path.open("wb") as file:
        file.write(head.ljust(_padded(len(head)), b"\0"))
        for _, _, data in tensors:
            file.write(data.ljust(_padded(len(data)), b"\0"))
    return path


def _tokens() -> Iterator[tuple[str, int]]:
    yield from (("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL))
    yield from ((f"<0x{byte:02X}>", BYTE) for byte in range(256))
    yield from (("<|im_start|>", CONTROL), ("<|im_end|>", CONTROL))
    yield from (("<tool_call>", USER_DEFINED), ("</tool_call>", USER_DEFINED))
    words = [*("\u2581" + word for word in WORDS), *WORDS]
    # Merging goes pair by pair: every beginning of a word must be a token too.
    parts = [word[:end] for word in words for end in range(2, len(word))]
    yield from ((piece, NORMAL) for piece in dict.fromkeys(["\u2581", *map(chr, range(33, 127)), *words, *parts]))


def _meta(tokens: list[tuple[str, int]]) -> list[bytes]:
    numbers = {
        "context_length": CONTEXT,
        "embedding_length": WIDTH,
        "block_count": LAYERS,
        "feed_forward_length": FEED,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "rope.dimension_count": WIDTH // HEADS,
        "vocab_size": len(tokens),
    }
    kinds = [kind for _, kind in tokens]
    scores = [-float(number) if kind == NORMAL else 0.0 for number, kind in enumerate(kinds)]
    ids = {"bos": 1, "eos": END, "unknown": 0}
    assert (tokens[TOOL_CALL][0], tokens[END][0]) == ("<tool_call>", "<|im_end|>")
    return [
        _pair("general.architecture", 8, _text("llama")),
        *(_pair(f"llama.{key}", 4, struct.pack("<I", value)) for key, value in numbers.items()),
        _pair("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)),
        _pair("tokenizer.ggml.model", 8, _text("llama")),
        _pair("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, len(tokens)) + b"".join(_text(t) for t, _ in tokens)),
        _pair("tokenizer.ggml.scores", 9, struct.pack(f"<IQ{len(scores)}f", 6, len(scores), *scores)),
        _pair("tokenizer.ggml.token_type", 9, struct.pack(f"<IQ{len(kinds)}i", 5, len(kinds), *kinds)),
        *(_pair(f"tokenizer.ggml.{key}_token_id", 4, struct.pack("<I", value)) for key, value in ids.items()),
        _pair("tokenizer.ggml.add_bos_token", 7, b"\1"),
        _pair("tokenizer.ggml.add_eos_token", 7, b"\0"),
        _pair("tokenizer.ggml.add_space_prefix", 7, b"\0"),  # with it no grammar can begin
        _pair("tokenizer.chat_template", 8, _text(TEMPLATE)),
    ]


def _tensors(kinds: list[int]) -> Iterator[tuple[str, tuple[int, ...], bytes]]:
    chance = random.Random(7)

    def weights(rows: int, columns: int, scale: float = 1.0) -> tuple[tuple[int, int], bytes]:
        spread = scale / columns**0.5
        return (rows, columns), array("f", (chance.gauss(0, spread) for _ in range(rows * columns))).tobytes()

    ones = ((WIDTH,), array("f", [1.0] * WIDTH).tobytes())
    kv = WIDTH // HEADS * KV_HEADS
    special = sum(kind != NORMAL for kind in kinds)
    yield "token_embd.weight", *weights(len(kinds), WIDTH)
    for layer in range(LAYERS):
        shapes = {"attn_q": (WIDTH, WIDTH), "attn_k": (kv, WIDTH), "attn_v": (kv, WIDTH), "attn_output": (WIDTH, WIDTH)}
        shapes |= {"ffn_gate": (FEED, WIDTH), "ffn_up": (FEED, WIDTH), "ffn_down": (WIDTH, FEED)}
        yield f"blk.{layer}.attn_norm.weight", *ones
        yield f"blk.{layer}.ffn_norm.weight", *ones
        for name, shape in shapes.items():
            yield f"blk.{layer}.{name}.weight", *weights(*shape)
    yield "output_norm.weight", *ones
    shape, data = weights(len(kinds), WIDTH, 3.0)
    # Bytes and specials never win by themselves: what it says can be printed, and does not end early.
    yield "output.weight", shape, bytes(special * WIDTH * 4) + data[special * WIDTH * 4 :]


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _pair(key: str, kind: int, value: bytes) -> bytes:
    return _text(key) + struct.pack("<I", kind) + value


def _padded(size: int) -> int:
    return -(-size // ALIGN) * ALIGN
