"""Kernels in Triton for a GPU: what a step does beside its products, each in one pass over memory.

| file            | what it computes                                                          |
|-----------------|---------------------------------------------------------------------------|
| `norm.py`       | the root-mean-square norm, and its gradient with the norm again           |
| `gated.py`      | SwiGLU, and its gradient with SwiGLU again                                |
| `rotation.py`   | the rotary embedding                                                      |
| `next_token.py` | cross-entropy and its gradient, in place of the logits                    |
| `kernels.py`    | the same as functions of tensors                                          |

Torch's operators take five to fifteen passes over memory for each, and on a GPU memory is what they wait for. Attention
is not among them: FlashAttention is torch's own (`engine/varlen`). Triton comes with torch where torch knows a GPU;
without it, or for another dtype, torch's operators run (`docs/decisions/014`).
"""
