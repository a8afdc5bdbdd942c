/* Functions of whole registers: numbers become float32, float32 become numbers, and the exponential. */

#ifndef KEEPTUNE_VECTORS_H
#define KEEPTUNE_VECTORS_H

#include "lanes.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif
#if !defined(FLOAT32) && defined(__AVX512BF16__)
#define TWOS /* the processor rounds to bfloat16, and multiplies two of them at a time */
#endif

typedef uint32_t whole __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

#define CHAINS 4 /* of sums that do not wait for each other */
#define UNROLLED _Pragma("GCC unroll 32") for

INLINE lanes lanes_of(float x) { return (lanes){0} + x; }

#ifdef FLOAT32

INLINE lanes widened(const number *from) { return *(const lanes *)from; }
INLINE void narrowed(number *to, lanes from) { *(lanes *)to = from; }
INLINE lanes all_rounded(lanes x) { return x; }

#else

INLINE lanes all_wide(halves x)
{
#if defined(__AVX512F__)
    return (lanes)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)x), 16); /* compilers convert by halves */
#else
    return (lanes)(__builtin_convertvector(x, whole) << 16);
#endif
}

INLINE halves all_narrow(lanes x)
{
#ifdef TWOS
    return (halves)_mm512_cvtneps_pbh((__m512)x);
#else
    whole bits = (whole)x, numbers = x == x;
    whole nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return __builtin_convertvector((nearest & numbers) | (0x7fc0 & ~numbers), halves);
#endif
}

INLINE lanes widened(const number *from) { return all_wide(*(const halves *)from); }
INLINE void narrowed(number *to, lanes from) { *(halves *)to = all_narrow(from); }
INLINE lanes all_rounded(lanes x) { return all_wide(all_narrow(x)); }

#endif

/* The same of so many numbers, if they are fewer than LANES: none if it is no more than zero. Behind them there are zeros. */
INLINE lanes some(const number *from, int64_t count)
{
    if (count >= LANES)
        return widened(from);
    number all[LANES] = {0};
    memcpy(all, from, most(count, 0) * sizeof(number));
    return widened(all);
}

INLINE void put(number *to, lanes from, int64_t count)
{
    if (count >= LANES) {
        narrowed(to, from);
        return;
    }
    number all[LANES];
    narrowed(all, from);
    memcpy(to, all, most(count, 0) * sizeof(number));
}

INLINE lanes all_of(const lanes *chains) { return (chains[0] + chains[1]) + (chains[2] + chains[3]); }

INLINE float total(lanes x)
{
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)x);
#else
    for (int d = LANES / 2; d; d /= 2)
        for (int i = 0; i < d; i++)
            x[i] += x[i + d];
    return x[0];
#endif
}

INLINE lanes within(lanes x, float low, float high)
{
#if defined(__AVX512F__)
    return (lanes)_mm512_min_ps(_mm512_set1_ps(high), _mm512_max_ps(_mm512_set1_ps(low), (__m512)x));
#else
    whole under = x < low, over = x > high;
    return (lanes)(((whole)x & ~under & ~over) | ((whole)lanes_of(low) & under) | ((whole)lanes_of(high) & over));
#endif
}

INLINE lanes larger(lanes x, lanes y)
{
#if defined(__AVX512F__)
    return (lanes)_mm512_max_ps((__m512)x, (__m512)y);
#else
    whole over = x > y;
    return (lanes)(((whole)x & over) | ((whole)y & ~over));
#endif
}

INLINE float highest(lanes x)
{
    float top = x[0];
    for (int i = 1; i < LANES; i++)
        top = x[i] > top ? x[i] : top;
    return top;
}

/* The first so many lanes, and another number in those behind them. */
INLINE lanes first(lanes x, int64_t count, float other)
{
    whole place;
    UNROLLED(int i = 0; i < LANES; i++) place[i] = i;
    whole there = place < (uint32_t)least(count, LANES);
    return (lanes)(((whole)x & there) | ((whole)lanes_of(other) & ~there));
}

/* e^x within 3e-7 of it, relatively, and e^-87 below -87, e^88 above 88: x = (n + f) ln 2, |f| <= 1/2, and a polynomial for
 * 2^f (minimax of the relative error). To add 1.5 * 2^23 leaves n in the lowest bits. */
INLINE lanes exponentials(lanes x)
{
    const float shift = 12582912.0f, per_nat = 1.44269502f, rest = 1.92596299e-8f; /* 1 / ln 2, in two parts */
    x = within(x, -87.0f, 88.0f);
    lanes shifted = x * per_nat + shift, n = shifted - shift;
    lanes f = x * per_nat - n + x * rest;
    lanes p = lanes_of(1.32764725e-3f);
    p = p * f + 9.67554096e-3f;
    p = p * f + 5.55071309e-2f;
    p = p * f + 2.40221202e-1f;
    p = p * f + 6.93146944e-1f;
    p = p * f + 1.0f;
#if defined(__AVX512F__)
    return (lanes)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    return p * (lanes)(((whole)shifted << 23) + (127 << 23));
#endif
}

#endif
