/* Kernels that are called one after the other. Whoever calls a single one from Python finds his code and his objects swept out
 * of the caches by the kernel before it, and takes longer than many a kernel; so they come as a list.
 *
 * A call is words of 64 bits: which kernel, how many words follow, and its arguments: places, then numbers. */

#include "kernels.h"

enum { NORM, NORM_BACK, GATED, GATED_BACK, ROTATE, ATTENTION, ATTENTION_BACK, NEXT_TOKEN, LOW_RANK, PRODUCTS }; /* `calls.py` */

#define PLACE(i) ((void *)(intptr_t)at[i])
#define FLOAT(i) ((float)*(const double *)(at + i))

/* 1: no memory. */
static int called(int64_t which, const int64_t *at)
{
    switch (which) {
    case NORM:
        norm(PLACE(0), PLACE(1), FLOAT(3), PLACE(2), at[4], at[5], (int)at[6]);
        return 0;
    case NORM_BACK:
        norm_back(PLACE(0), PLACE(1), PLACE(2), PLACE(3), FLOAT(6), PLACE(4), PLACE(5), at[7], at[8], (int)at[9]);
        return 0;
    case GATED:
        gated(PLACE(0), PLACE(1), PLACE(2), at[3], (int)at[4]);
        return 0;
    case GATED_BACK:
        gated_back(PLACE(0), PLACE(1), PLACE(2), PLACE(3), PLACE(4), PLACE(5), at[6], (int)at[7]);
        return 0;
    case ROTATE:
        rotate(PLACE(0), PLACE(1), PLACE(2), at[4], FLOAT(5), PLACE(3), at[6], at[7], at[8], (int)at[9]);
        return 0;
    case ATTENTION:
        return attention(PLACE(0), PLACE(1), PLACE(2), PLACE(3), PLACE(4), PLACE(5), PLACE(6), at[7], at[8], at[9], at[10],
                         FLOAT(11), (int)at[12]);
    case ATTENTION_BACK:
        return attention_back(PLACE(0), PLACE(1), PLACE(2), PLACE(3), PLACE(4), PLACE(5), PLACE(6), PLACE(7), PLACE(8),
                              PLACE(9), at[10], at[11], at[12], at[13], FLOAT(14), (int)at[15]);
    case NEXT_TOKEN:
        return next_token(PLACE(0), PLACE(1), PLACE(2), PLACE(3), at[4], at[5], (int)at[6]);
    case LOW_RANK:
        low_rank(PLACE(0), PLACE(1), PLACE(2), PLACE(3), PLACE(4), PLACE(5), PLACE(6), at[7], at[8], at[9], at[10],
                 (int)at[11]);
        return 0;
    default:
        return products((const struct sum *)(at + 1), (int)at[0]);
    }
}

/* How many calls were made: all of them, or those before the one for which memory was short. */
int64_t calls(const int64_t *at, int64_t count)
{
    for (int64_t i = 0; i < count; i++, at += 2 + at[1])
        if (called(at[0], at + 2))
            return i;
    return count;
}
