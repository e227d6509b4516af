// Kernels: loops over one tile, which is LANES images side by side in memory.
//
// A tile of a value with C channels of H x W pixels is float[H][W][C][LANES], with the pixels as
// far apart as `pixel_of` says: the LANES numbers of a channel of a pixel are one vector register,
// and whatever is done to one image is done to all of them by the same instruction. README.md shows
// a convolution in this layout.
//
// No kernel knows how many tiles or threads there are, so that no result depends on them.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

// A vector register, and how many of them hold sums while a kernel runs; the rest hold what is
// multiplied.
#if defined(__AVX512F__)
constexpr int LANES = 16, SUMS = 24;
#elif defined(__AVX__)
constexpr int LANES = 8, SUMS = 12;
#elif defined(__aarch64__)
constexpr int LANES = 4, SUMS = 24;
#else
constexpr int LANES = 4, SUMS = 12;
#endif
typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t IntVec __attribute__((vector_size(4 * LANES)));
typedef uint32_t UIntVec __attribute__((vector_size(4 * LANES)));

// for i of 0..n-1, where n is known: all of it one after another, so that sums stay in registers.
#define EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < n; i++)

static inline Vec load(const float* from) {
    Vec v;
    std::memcpy(&v, from, sizeof v);
    return v;
}
// The same, kept in a register: it is used several times, and compilers like to read it again.
static inline Vec held(const float* from) {
    Vec v = load(from);
#if defined(__AVX512F__)
    asm("" : "+v"(v));
#elif defined(__AVX__)
    asm("" : "+x"(v));
#elif defined(__aarch64__)
    asm("" : "+w"(v));
#endif
    return v;
}
static inline void store(float* to, Vec v) { std::memcpy(to, &v, sizeof v); }
// The same past the caches, for what is read again only when they hold other things, and by the
// same thread: another might see it late.
static inline void store_past_cache(float* to, Vec v) {
#if defined(__clang__)
    __builtin_nontemporal_store(v, reinterpret_cast<Vec*>(to));
#elif defined(__AVX512F__)
    __builtin_ia32_movntps512(to, v);
#elif defined(__AVX__)
    __builtin_ia32_movntps256(to, v);
#else
    store(to, v);
#endif
}
static inline Vec all(float value) { return value - Vec{}; }  // not +, which makes 0 of -0

// The sum over the lanes, halves first: the same order on every thread.
template <int N>
static inline float sum_of(const float* numbers) {
    typedef float Half __attribute__((vector_size(2 * N)));
    Half low, high;
    std::memcpy(&low, numbers, sizeof low);
    std::memcpy(&high, numbers + N / 2, sizeof high);
    low += high;
    return sum_of<N / 2>(reinterpret_cast<const float*>(&low));
}
template <>
inline float sum_of<2>(const float* numbers) {
    return numbers[0] + numbers[1];
}
static inline float sum_of_lanes(Vec v) {
    return sum_of<LANES>(reinterpret_cast<const float*>(&v));
}

// Lanes that hold an image: all but in the last tile of a batch.
static inline IntVec first_lanes(int images) {
    IntVec lanes;
    for (int i = 0; i < LANES; i++) lanes[i] = i < images ? -1 : 0;
    return lanes;
}

// Floats from a pixel to the next. Many channels take an odd number of vectors: so one channel of
// neighbouring pixels lies in other sets of the first cache. Where all fall into the same two, as
// with 32 channels, a depthwise convolution takes twice as long.
constexpr ptrdiff_t pixel_of(int channels) {
    return (channels < 16 ? channels : channels | 1) * LANES;
}

// Piece `i` of `pieces` as equal as they can be of 0..total: where it begins.
static inline int piece(int total, int pieces, int i) { return int(int64_t(total) * i / pieces); }
static inline int pieces_of(int total, int most) { return (total + most - 1) / most; }
constexpr int within(int size, int most) { return size < most ? size : most; }

// f(std::integral_constant<int, n>) for n of 1..8: the number is known when f is compiled.
template <typename F>
static inline void with_count(int n, F&& f) {
    switch (n) {
        case 1:
            return f(std::integral_constant<int, 1>{});
        case 2:
            return f(std::integral_constant<int, 2>{});
        case 3:
            return f(std::integral_constant<int, 3>{});
        case 4:
            return f(std::integral_constant<int, 4>{});
        case 5:
            return f(std::integral_constant<int, 5>{});
        case 6:
            return f(std::integral_constant<int, 6>{});
        case 7:
            return f(std::integral_constant<int, 7>{});
        default:
            return f(std::integral_constant<int, 8>{});
    }
}

// ---- Convolution --------------------------------------------------------------------------------

// Of a row of a convolution, whose input has its border already: all distances are in floats.
struct Conv {
    int inputs, outputs;  // channels, of a group
    int groups;
    int taps_y, taps_x;  // the kernel
    int width;           // of the output
    ptrdiff_t tap_x;     // between neighbouring taps
    ptrdiff_t in_x;      // in the input, between neighbouring pixels of the output
    ptrdiff_t in_pixel;  // between neighbouring pixels of the input
    ptrdiff_t out_x;     // of the output
    int taps() const { return taps_y * taps_x; }
    bool depthwise() const { return inputs == 1 && outputs == 1 && groups > 1; }
    // Of a depthwise convolution that has a kernel of its own, with 3 x 3 taps and no stride, how
    // many pixels apart they are: 1 or 2; of others 0.
    int nine_apart() const {
        const ptrdiff_t apart = tap_x / in_pixel;
        const bool nine = depthwise() && taps_y == 3 && taps_x == 3 && in_x == in_pixel;
        return nine && apart <= 2 ? int(apart) : 0;
    }
};

// The rows of the input that the taps of a row of the output are in.
typedef const float* const* Rows;

constexpr int MOST_OUTPUTS = 8;  // channels that a block computes at once
constexpr int MOST_PIXELS = 6;   // and pixels of a row

// Sums of pixels and channels go to their places, what is below zero as zero if so.
template <int A, int B>
static inline void store_block(Vec (&sums)[A][B], bool relu, float* y, ptrdiff_t step_a,
                               ptrdiff_t step_b) {
    if (relu) {
        EACH(a, A)
            EACH(b, B) sums[a][b] = sums[a][b] < 0.f ? Vec{} : sums[a][b];
    }
    EACH(a, A)
        EACH(b, B) store(y + a * step_a + b * step_b, sums[a][b]);
}

// sums[k][p] += w[tap][k] * x[tap][p] over all taps and channels: K outputs of P pixels, in
// registers.
template <int K, int P>
static void conv_block(const Conv& g, Rows rows, ptrdiff_t at, const float* w, const float* bias,
                       bool relu, float* y) {
    Vec sums[K][P];
    EACH(k, K)
        EACH(p, P) sums[k][p] = all(bias ? bias[k] : 0.f);
    for (int r = 0; r < g.taps_y; r++)
        for (int s = 0; s < g.taps_x; s++) {
            const float* tap = rows[r] + at + s * g.tap_x;
            for (int c = 0; c < g.inputs; c++, tap += LANES, w += K) {
                Vec in[P];
                EACH(p, P) in[p] = held(tap + p * g.in_x);
                EACH(k, K)
                    EACH(p, P) sums[k][p] += w[k] * in[p];
            }
        }
    store_block(sums, relu, y, LANES, g.out_x);
}

// y[p][c] = sum over taps of w[tap][c] * x[tap][p][c]: C channels of P pixels, in registers.
template <int C, int P>
static void depthwise_block(const Conv& g, Rows rows, ptrdiff_t at, const float* w,
                            const float* bias, bool relu, float* y) {
    Vec sums[C][P];
    EACH(c, C)
        EACH(p, P) sums[c][p] = all(bias ? bias[c] : 0.f);
    for (int r = 0; r < g.taps_y; r++)
        for (int s = 0; s < g.taps_x; s++, w += g.groups) {
            const float* tap = rows[r] + at + s * g.tap_x;
            EACH(c, C) {
                const Vec weight = all(w[c]);
                EACH(p, P) sums[c][p] += weight * load(tap + p * g.in_x + c * LANES);
            }
        }
    store_block(sums, relu, y, LANES, g.out_x);
}

// The same of P pixels, a channel after the other, with 3 x 3 taps that are D pixels apart in a
// row: each number that is read is used for as many of them as it is of.
template <int D, int P>
static void nine_taps(const Conv& g, Rows rows, ptrdiff_t at, const float* w, const float* bias,
                      bool relu, float* y) {
    for (int c = 0; c < g.groups; c++, at += LANES, w++, y += LANES) {
        Vec sums[1][P];
        EACH(p, P) sums[0][p] = all(bias ? bias[c] : 0.f);
        EACH(r, 3) {
            const float* from = rows[r] + at;
            Vec weights[3];
            EACH(t, 3) weights[t] = all(w[(3 * r + t) * g.groups]);
            EACH(q, P + 2 * D) {
                const Vec in = held(from + q * g.in_pixel);
                EACH(t, 3)
                    if (q >= t * D && q - t * D < P) sums[0][q - t * D] += weights[t] * in;
            }
        }
        store_block(sums, relu, y, 0, g.out_x);
    }
}

// sums[k][n] += dy[k] * x[n] over all pixels: the gradient of N weights (taps of input channels,
// which begin there) of K outputs, of each lane. Of so many rows, which are `skip` further apart
// than long.
template <int K, int N>
static void weights_block(const Conv& g, const float* const* taps, const float* dy, float* sums,
                          ptrdiff_t step, int height, ptrdiff_t x_skip, ptrdiff_t dy_skip) {
    Vec sum[K][N];
    EACH(k, K)
        EACH(n, N) sum[k][n] = load(sums + k * step + n * LANES);
    ptrdiff_t x = 0;
    for (int pixels = height * g.width, left = g.width; pixels > 0; pixels--) {
        Vec d[K];
        EACH(k, K) d[k] = held(dy + k * LANES);
        EACH(n, N) {
            const Vec in = held(taps[n] + x);
            EACH(k, K) sum[k][n] += d[k] * in;
        }
        x += g.in_x, dy += g.out_x;
        if (--left == 0) left = g.width, x += x_skip, dy += dy_skip;
    }
    EACH(k, K)
        EACH(n, N) store(sums + k * step + n * LANES, sum[k][n]);
}

// The same where each channel has its own kernel: N taps of C channels.
template <int C, int N>
static void depthwise_weights_block(const Conv& g, const float* const* taps, const float* dy,
                                    float* sums, ptrdiff_t step, int height, ptrdiff_t x_skip,
                                    ptrdiff_t dy_skip) {
    Vec sum[C][N];
    EACH(c, C)
        EACH(n, N) sum[c][n] = load(sums + c * step + n * LANES);
    ptrdiff_t x = 0;
    for (int pixels = height * g.width, left = g.width; pixels > 0; pixels--) {
        EACH(c, C) {
            const Vec d = load(dy + c * LANES);
            EACH(n, N) sum[c][n] += d * load(taps[n] + x + c * LANES);
        }
        x += g.in_x, dy += g.out_x;
        if (--left == 0) left = g.width, x += x_skip, dy += dy_skip;
    }
    EACH(c, C)
        EACH(n, N) store(sums + c * step + n * LANES, sum[c][n]);
}

// The same for a channel with 3 x 3 taps, D pixels apart in a row, which are nine sums: of P
// pixels.
template <int D, int P>
static inline void nine_sums(Vec (&sums)[3][3], const float* const* taps, ptrdiff_t x,
                             ptrdiff_t in_pixel, const float* dy, ptrdiff_t out_x) {
    Vec d[P];
    EACH(p, P) d[p] = held(dy + p * out_x);
    EACH(r, 3)
        EACH(q, P + 2 * D) {
            const Vec in = held(taps[3 * r] + x + q * in_pixel);
            EACH(t, 3)
                if (q >= t * D && q - t * D < P) sums[r][t] += d[q - t * D] * in;
        }
}
template <int D>
static void nine_weights(const Conv& g, const float* const* taps, const float* dy, float* sums,
                         int height, ptrdiff_t x_skip) {
    Vec sum[3][3];
    EACH(n, 9) sum[n / 3][n % 3] = load(sums + n * LANES);
    ptrdiff_t x = 0;
    for (int row = 0; row < height; row++, x += x_skip) {
        int j = 0;
        for (; j + 4 <= g.width; j += 4, x += 4 * g.in_x, dy += 4 * g.out_x)
            nine_sums<D, 4>(sum, taps, x, g.in_pixel, dy, g.out_x);
        for (; j < g.width; j++, x += g.in_x, dy += g.out_x)
            nine_sums<D, 1>(sum, taps, x, g.in_pixel, dy, g.out_x);
    }
    EACH(n, 9) store(sums + n * LANES, sum[n / 3][n % 3]);
}

// A kernel for each size of a block, chosen when it is known: block<a, b> for 1 <= a, b.
typedef void ConvBlock(const Conv&, Rows, ptrdiff_t, const float*, const float*, bool, float*);
typedef void WeightsBlock(const Conv&, const float* const*, const float*, float*, ptrdiff_t, int,
                          ptrdiff_t, ptrdiff_t);

// How many of b sums each of a has, so that all stay in registers.
constexpr int fitting(int a, int b) { return within(b, SUMS / a); }

#define BLOCKS(NAME, TYPE, BLOCK, A, B)                                                    \
    template <int... I>                                                                    \
    static TYPE* NAME(int a, int b, std::integer_sequence<int, I...>) {                    \
        static TYPE* const table[] = {BLOCK<I / B + 1, fitting(I / B + 1, I % B + 1)>...}; \
        return table[(a - 1) * B + b - 1];                                                 \
    }                                                                                      \
    static TYPE* NAME(int a, int b) { return NAME(a, b, std::make_integer_sequence<int, A * B>()); }
BLOCKS(conv_kernel, ConvBlock, conv_block, MOST_OUTPUTS, MOST_PIXELS)
BLOCKS(depthwise_kernel, ConvBlock, depthwise_block, 8, MOST_PIXELS)
BLOCKS(nine_taps_kernel, ConvBlock, nine_taps, 2, 8)
BLOCKS(weights_kernel, WeightsBlock, weights_block, 4, 6)
BLOCKS(depthwise_weights_kernel, WeightsBlock, depthwise_weights_block, 8, 3)
#undef BLOCKS

// A row of a convolution; `w` as `pack` lays it out. All outputs of some pixels before the next
// pixels, so that memory is written in its order.
static void conv(const Conv& g, Rows rows, const float* w, const float* bias, bool relu, float* y) {
    const int blocks = pieces_of(g.outputs, MOST_OUTPUTS);
    const int runs = pieces_of(g.width, within(SUMS / pieces_of(g.outputs, blocks), MOST_PIXELS));
    const ptrdiff_t weights = ptrdiff_t(g.taps()) * g.inputs;  // of an output
    for (int run = 0; run < runs; run++) {
        const int j = piece(g.width, runs, run), end = piece(g.width, runs, run + 1);
        for (int group = 0; group < g.groups; group++)
            for (int b = 0; b < blocks; b++) {
                const int k = piece(g.outputs, blocks, b);
                const int size = piece(g.outputs, blocks, b + 1) - k, out = group * g.outputs + k;
                conv_kernel(size, end - j)(
                    g, rows, j * g.in_x + ptrdiff_t(group) * g.inputs * LANES, w + out * weights,
                    bias ? bias + out : nullptr, relu, y + j * g.out_x + out * LANES);
            }
    }
}

// Weights (outputs, inputs, taps) of one group after the other, in the order in which a block of
// outputs reads them: w[block][tap][input][output]. Of a depthwise convolution: w[tap][channel].
static void pack(const Conv& g, const float* weights, float* w) {
    if (g.depthwise()) {
        for (int t = 0; t < g.taps(); t++)
            for (int c = 0; c < g.groups; c++) *w++ = weights[c * g.taps() + t];
        return;
    }
    const int blocks = pieces_of(g.outputs, MOST_OUTPUTS);
    for (int group = 0; group < g.groups; group++)
        for (int b = 0; b < blocks; b++)
            for (int t = 0; t < g.taps(); t++)
                for (int c = 0; c < g.inputs; c++)
                    for (int k = piece(g.outputs, blocks, b); k < piece(g.outputs, blocks, b + 1);
                         k++)
                        *w++ =
                            weights[(ptrdiff_t(group * g.outputs + k) * g.inputs + c) * g.taps() +
                                    t];
}

// The same for the gradient of the input, which is a convolution of that of the output with the
// kernel turned by half a turn, inputs and outputs exchanged. `g` is that second convolution.
static void pack_turned(const Conv& g, const float* weights, float* w) {
    if (g.depthwise()) {
        for (int t = g.taps(); t-- > 0;)
            for (int c = 0; c < g.groups; c++) *w++ = weights[c * g.taps() + t];
        return;
    }
    const int blocks = pieces_of(g.outputs, MOST_OUTPUTS);
    for (int group = 0; group < g.groups; group++)
        for (int b = 0; b < blocks; b++)
            for (int t = g.taps(); t-- > 0;)
                for (int c = 0; c < g.inputs; c++)
                    for (int k = piece(g.outputs, blocks, b); k < piece(g.outputs, blocks, b + 1);
                         k++)
                        *w++ =
                            weights[(ptrdiff_t(group * g.inputs + c) * g.outputs + k) * g.taps() +
                                    t];
}

static void depthwise(const Conv& g, Rows rows, const float* w, const float* bias, bool relu,
                      float* y) {
    if (const int apart = g.nine_apart()) {
        const int runs = pieces_of(g.width, 8);
        for (int run = 0; run < runs; run++) {
            const int j = piece(g.width, runs, run), end = piece(g.width, runs, run + 1);
            nine_taps_kernel(apart, end - j)(g, rows, j * g.in_x, w, bias, relu, y + j * g.out_x);
        }
        return;
    }
    const int blocks = pieces_of(g.groups, 8);
    const int runs = pieces_of(g.width, within(SUMS / 8, MOST_PIXELS));
    for (int run = 0; run < runs; run++) {
        const int j = piece(g.width, runs, run), end = piece(g.width, runs, run + 1);
        for (int b = 0; b < blocks; b++) {
            const int c = piece(g.groups, blocks, b), size = piece(g.groups, blocks, b + 1) - c;
            depthwise_kernel(size, end - j)(g, rows, j * g.in_x + c * LANES, w + c,
                                            bias ? bias + c : nullptr, relu,
                                            y + j * g.out_x + c * LANES);
        }
    }
}

// sums (outputs, inputs, taps), one group after the other, are raised by the gradient of the
// weights, of each lane: of so many rows, in the input `in_y` apart.
static void conv_weights(const Conv& g, Rows rows, const float* dy, float* sums, int height,
                         ptrdiff_t in_y) {
    const bool depthwise = g.depthwise();
    const int columns = g.inputs * g.taps();
    const int outputs = depthwise ? g.groups : g.outputs, groups = depthwise ? 1 : g.groups;
    const int blocks = pieces_of(outputs, depthwise ? 8 : 4);
    const int parts = pieces_of(columns, depthwise ? 3 : SUMS / 4);
    const ptrdiff_t step = ptrdiff_t(columns) * LANES, x_skip = in_y - g.width * g.in_x;
    std::vector<const float*> taps(columns);
    const int apart = g.nine_apart();
    for (int c = 0; apart && c < g.groups; c++) {
        for (int r = 0; r < 3; r++) taps[3 * r] = rows[r] + c * LANES;
        (apart == 1 ? nine_weights<1> : nine_weights<2>)(g, taps.data(), dy + c * LANES,
                                                         sums + c * step, height, x_skip);
    }
    for (int group = 0; group < groups && !apart; group++)
        for (int b = 0; b < blocks; b++) {
            const int k = group * outputs + piece(outputs, blocks, b);
            const int size = piece(outputs, blocks, b + 1) - piece(outputs, blocks, b);
            const int input = depthwise ? k : group * g.inputs;
            for (int c = 0, n = 0; c < g.inputs; c++)
                for (int r = 0; r < g.taps_y; r++)
                    for (int s = 0; s < g.taps_x; s++)
                        taps[n++] = rows[r] + s * g.tap_x + (input + c) * LANES;
            for (int part = 0; part < parts; part++) {
                const int n = piece(columns, parts, part), end = piece(columns, parts, part + 1);
                const auto kernel = depthwise ? depthwise_weights_kernel(size, end - n)
                                              : weights_kernel(size, end - n);
                kernel(g, &taps[n], dy + ptrdiff_t(k) * LANES, sums + k * step + n * LANES, step,
                       height, x_skip, 0);
            }
        }
}

// ---- Batch normalisation ------------------------------------------------------------------------

// Of each channel and lane, the mean and the sum of squares of differences from it, (2, channels),
// joined to those of so many pixels `before` (Chan, Golub and LeVeque 1979).
static void lane_moments(const float* x, int pixels, int before, int channels, float* means) {
    const int blocks = pieces_of(channels, 8);
    const ptrdiff_t pixel = pixel_of(channels);
    for (int b = 0; b < blocks; b++) {
        const int first = piece(channels, blocks, b);
        with_count(piece(channels, blocks, b + 1) - first, [&](auto count) {
            constexpr int C = count;
            Vec sums[C], squares[C];
            EACH(c, C) sums[c] = squares[c] = Vec{};
            for (int i = 0; i < pixels; i++)
                EACH(c, C) sums[c] += load(x + i * pixel + (first + c) * LANES);
            EACH(c, C) sums[c] /= float(pixels);
            for (int i = 0; i < pixels; i++)
                EACH(c, C) {
                    const Vec difference = load(x + i * pixel + (first + c) * LANES) - sums[c];
                    squares[c] += difference * difference;
                }
            const float share = float(pixels) / float(before + pixels);
            EACH(c, C) {
                float *mean = means + (first + c) * LANES, *square = mean + channels * LANES;
                const Vec difference = sums[c] - load(mean);
                store(mean, load(mean) + difference * share);
                store(square,
                      load(square) + squares[c] + difference * difference * (share * before));
            }
        });
    }
}

// ---- Elementwise functions ----------------------------------------------------------------------

enum Activation { IDENTITY, RELU, SILU, GELU, GELU_TANH, TANH, SIGMOID };

// e to the power of x, to within two units in the last place: Cephes' expf.
static inline Vec exponential(Vec x) {
    const Vec clamped = x > 88.7f ? all(88.7f) : x < -87.3f ? all(-87.3f) : x;
    const Vec times = clamped * 1.44269504088896341f;
    const IntVec n =
        __builtin_convertvector(times + (times < 0.f ? all(-0.5f) : all(0.5f)), IntVec);
    const Vec whole = __builtin_convertvector(n, Vec);
    const Vec f = clamped - whole * 0.693359375f + whole * 2.12194440e-4f;
    Vec p = f * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
    p = p * f * f + f + 1.f;
    const IntVec bits = (n + 127) << 23;
    Vec power;
    std::memcpy(&power, &bits, sizeof power);
    const Vec result = p * power;
    return x > 88.7f    ? (x > 88.72283f ? all(INFINITY) : result)
           : x < -87.3f ? Vec{}
           : x == x     ? result
                        : x;
}
static inline Vec sigmoid(Vec x) { return 1.f / (1.f + exponential(-x)); }
static inline Vec absolute(Vec x) { return x < 0.f ? -x : x; }

// Cephes' tanhf: a polynomial near zero, where 1 - 2 / (e^2x + 1) would lose digits.
static inline Vec hyperbolic_tangent(Vec x) {
    const Vec size = absolute(x), square = x * x;
    Vec p = square * -5.70498872745e-3f + 2.06390887954e-2f;
    p = p * square - 5.37397155531e-2f;
    p = p * square + 1.33314422036e-1f;
    p = p * square - 3.33332819422e-1f;
    const Vec near = p * square * x + x, far = 1.f - 2.f / (exponential(2.f * size) + 1.f);
    return size < 0.625f ? near : x != x ? x : x < 0.f ? -far : far;
}

// The error function: its power series near zero, and one minus the complementary one elsewhere,
// by the Chebyshev fit of Press et al., Numerical Recipes (erfcc, relative error 1.2e-7).
static inline Vec error_function(Vec x) {
    const Vec z = absolute(x), t = 1.f / (1.f + 0.5f * z);
    Vec p = t * 0.17087277f - 0.82215223f;
    p = p * t + 1.48851587f;
    p = p * t - 1.13520398f;
    p = p * t + 0.27886807f;
    p = p * t - 0.18628806f;
    p = p * t + 0.09678418f;
    p = p * t + 0.37409196f;
    p = p * t + 1.00002368f;
    p = p * t - 1.26551223f;
    const Vec far = 1.f - t * exponential(-z * z + p), s = x * x;
    Vec q = 1.f / 1320.f - s / 9360.f;  // 1 - s q = sum of (-1)^n s^n / (n! (2n + 1))
    q = q * s - 1.f / 216.f;
    q = q * s + 1.f / 42.f;
    q = q * s - 1.f / 10.f;
    q = q * s + 1.f / 3.f;
    const Vec near = 1.1283791671f * x * (1.f - s * q);
    return z < 0.5f ? near : x != x ? x : x < 0.f ? -far : far;
}

static inline Vec activated(int activation, Vec x) {
    switch (activation) {
        case RELU:
            return x < 0.f ? Vec{} : x;  // what is no number stays so
        case SILU:
            return x * sigmoid(x);
        case GELU:
            return 0.5f * x * (1.f + error_function(x * 0.70710678f));
        case GELU_TANH:
            return 0.5f * x * (1.f + hyperbolic_tangent(0.79788456f * (x + 0.044715f * x * x * x)));
        case TANH:
            return hyperbolic_tangent(x);
        case SIGMOID:
            return sigmoid(x);
        default:
            return x;
    }
}

// The derivative at x.
static inline Vec slope_of(int activation, Vec x) {
    switch (activation) {
        case RELU:
            return x <= 0.f ? Vec{} : all(1.f);
        case SILU: {
            const Vec s = sigmoid(x);
            return s * (1.f + x * (1.f - s));
        }
        case GELU:
            return 0.5f * (1.f + error_function(x * 0.70710678f)) +
                   x * 0.39894228f * exponential(-0.5f * x * x);
        case GELU_TANH: {
            const Vec t = hyperbolic_tangent(0.79788456f * (x + 0.044715f * x * x * x));
            return 0.5f * (1.f + t) +
                   0.5f * x * (1.f - t * t) * 0.79788456f * (1.f + 0.134145f * x * x);
        }
        case TANH: {
            const Vec t = hyperbolic_tangent(x);
            return 1.f - t * t;
        }
        case SIGMOID: {
            const Vec s = sigmoid(x);
            return s * (1.f - s);
        }
        default:
            return all(1.f);
    }
}

// ---- Dropout ------------------------------------------------------------------------------------

// Random bits, of each lane its own: Doty-Humphrey's SFC32. A tile of a layer has its own seed, so
// that its backward pass draws the same masks again in place of keeping them.
class Random {
    UIntVec a, b, c, counter;

 public:
    explicit Random(uint64_t seed) {
        for (int lane = 0; lane < LANES; lane++) {
            uint32_t words[4];
            for (auto& word : words) {  // SplitMix64
                uint64_t z = seed += 0x9E3779B97F4A7C15u;
                z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
                z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
                word = uint32_t((z ^ (z >> 31)) >> 32);
            }
            a[lane] = words[0], b[lane] = words[1], c[lane] = words[2], counter[lane] = words[3];
        }
    }
    // All bits of the lanes that are below `bound` of 2**16: each draw is enough for two.
    template <int N>
    void below(uint32_t bound, IntVec (&lanes)[N]) {
        EACH(n, (N + 1) / 2) {
            const UIntVec sum = a + b + counter;
            counter += 1;
            a = b ^ (b >> 9);
            b = c + (c << 3);
            c = ((c << 21) | (c >> 11)) + sum;
            lanes[2 * n] = (sum & 0xFFFF) < bound;
            if (2 * n + 1 < N) lanes[2 * n + 1] = (sum >> 16) < bound;
        }
    }
};
