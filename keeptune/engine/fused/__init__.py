"""The body of Llama-like decoders in few passes over memory, for packed batches under low-rank updates.

| file           | holds                                                                                   |
|----------------|-----------------------------------------------------------------------------------------|
| `prologue`     | cheap functions before linear maps, computed again instead of kept: norm, SwiGLU        |
| `linear_group` | linear maps that share an input, with their low-rank updates, as one autograd function  |
| `rotation`     | rotary embedding                                                                        |
| `attending`    | rotary embedding and attention by kernels of a processor                                |
| `halves`       | a layer as two autograd functions, whose kernels run together                           |
| `readers`      | the tokens that somebody reads, for which alone a last layer runs to its end            |
| `obstacle`     | what makes a pass unfit, in words                                                       |
| `serving`      | which updates and deltas serve the linear maps of this pass                             |
| `body`         | the decoder, put together from these                                                    |

Whatever this package does not know runs the model's own modules instead, with equal results.
"""
