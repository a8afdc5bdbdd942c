"""How many bytes of text each token of a byte-level tokenizer stands for."""

from __future__ import annotations

from typing import Any


def byte_lengths(tokenizer: Any) -> list[int]:
    """Bytes of every token id; 0 for special tokens. `tokenizer`: a `tokenizers.Tokenizer` of byte-level BPE.

    In byte-level BPE each character of a token's spelling is one byte, so a token's length is its byte count.
    """
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    return [0 if i in special else len(tokenizer.id_to_token(i)) for i in range(tokenizer.get_vocab_size())]
