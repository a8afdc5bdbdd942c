"""Kernels in C for bfloat16 and float32 on a processor, compiled where they run; nothing depends on them.

| file               | what it computes                                                               |
|--------------------|--------------------------------------------------------------------------------|
| `lanes.h`          | bfloat16 or float32, and vectors as wide as the processor's registers          |
| `vectors.h`        | functions of whole registers: widening, narrowing, the exponential             |
| `units.h`          | float32, or two bfloat16, as one multiplication takes them                     |
| `blocks.h`         | products of small matrices                                                     |
| `norm.c`           | the root-mean-square norm, and its gradient                                    |
| `gated.c`          | SwiGLU, and its gradient                                                       |
| `rotation.c`       | the rotary embedding                                                           |
| `attention.c`      | causal attention over packed rows                                              |
| `attention_back.c` | its gradient                                                                   |
| `next_token.c`     | cross-entropy and its gradient, in place of the logits                         |
| `low_rank.c`       | updates of rows that have factors of their own                                 |
| `tiles.h`          | rows times panels, with all sums in registers                                  |
| `panels.h`         | columns of a matrix as tiles want them                                         |
| `products.c`       | sums of products of large matrices                                             |
| `kernels.h`        | all of them                                                                    |
| `calls.c`          | a list of them, one after the other                                            |
| `calls.py`         | how they are called: at once, or several together                              |
| `products.py`      | where they serve, and how they are called                                      |
| `library.py`       | compiles them once, keeps the result in the user's cache, loads it             |
| `kernels.py`       | the same as functions of tensors                                               |

Each does in one pass over memory what takes torch five to fifteen, and rounds where torch's operators would only where
somebody relies on it. Without a compiler or with another dtype, torch's operators run (`docs/decisions/009`).
"""
