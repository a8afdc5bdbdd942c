"""What a packed forward pass really keeps for its backward pass, counted tensor by tensor."""

from __future__ import annotations

import torch

from keeptune.data.encode import Encoded
from keeptune.engine.batch import pack
from keeptune.engine.packed import packed_hidden

LENGTH = 20


def kept_bytes(model, rows: int) -> int:
    """Bytes of all storages that autograd keeps, parameters left out."""
    batch = pack([Encoded(str(n), "s", tuple(range(3, 3 + LENGTH)), (True,) * LENGTH) for n in range(rows)])
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        packed_hidden(model, batch)
    return sum(size for size, _ in found.values())


def kept_per_token(model) -> float:
    """The slope over the number of rows: what does not grow with the batch falls out.

    Rows so many that their tokens are an even size, virtual ones included (`engine/even.py`).
    """
    return (kept_bytes(model, 128) - kept_bytes(model, 64)) / (64 * LENGTH)


def let_gradients_flow(model) -> None:
    """As with a method on the first block: every layer is on the way of a gradient."""
    model.requires_grad_(False)
    model.get_input_embeddings().register_forward_hook(
        lambda module, args, output: output.requires_grad_(True) if output.is_leaf else output
    )
