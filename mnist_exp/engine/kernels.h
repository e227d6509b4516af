// Kernels: loops over one tile, which is LANES images side by side in memory.
//
// A tile of a value with C channels of H x W pixels is float[H][W][C][LANES]: the LANES numbers of
// a channel of a pixel are one vector register, and whatever is done to one image is done to all of
// them by the same instruction. README.md shows a convolution in this layout.
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

static inline Vec load(const float* from) {
    Vec v;
    std::memcpy(&v, from, sizeof v);
    return v;
}
static inline void store(float* to, Vec v) { std::memcpy(to, &v, sizeof v); }
static inline Vec all(float value) { return Vec{} + value; }
static inline Vec maximum(Vec a, Vec b) { return a > b ? a : b; }  // b where one is no number

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
inline float sum_of<2>(const float* numbers) { return numbers[0] + numbers[1]; }
static inline float sum_of_lanes(Vec v) { return sum_of<LANES>(reinterpret_cast<const float*>(&v)); }

// Lanes that hold an image: all but in the last tile of a batch.
static inline IntVec first_lanes(int images) {
    IntVec lanes;
    for (int i = 0; i < LANES; i++) lanes[i] = i < images ? -1 : 0;
    return lanes;
}

// Piece `i` of `pieces` as equal as they can be of 0..total: where it begins.
static inline int piece(int total, int pieces, int i) { return int(int64_t(total) * i / pieces); }
static inline int pieces_of(int total, int most) { return (total + most - 1) / most; }

// ---- Convolution --------------------------------------------------------------------------------

// Of a convolution without border: all distances are in floats.
struct Conv {
    int inputs, outputs;        // channels, of a group
    int groups;
    int taps_y, taps_x;         // the kernel
    int height, width;          // of the output
    ptrdiff_t tap_y, tap_x;     // between neighbouring taps
    ptrdiff_t in_y, in_x;       // in the input, between neighbouring pixels of the output
    ptrdiff_t out_y, out_x;     // in the output
    int taps() const { return taps_y * taps_x; }
    bool depthwise() const { return inputs == 1 && outputs == 1 && groups > 1; }
};

constexpr int MOST_OUTPUTS = 8;  // channels that a block computes at once
constexpr int MOST_PIXELS = 6;   // and pixels of a row

// sums[k][p] += w[tap][k] * x[tap][p] over all taps and channels: K outputs of P pixels, in registers.
template <int K, int P>
static void conv_block(const Conv& g, const float* x, const float* w, const float* bias, bool relu,
                       float* y) {
    Vec sums[K][P];
    for (int k = 0; k < K; k++)
        for (int p = 0; p < P; p++) sums[k][p] = all(bias ? bias[k] : 0.f);
    for (int r = 0; r < g.taps_y; r++)
        for (int s = 0; s < g.taps_x; s++) {
            const float* tap = x + r * g.tap_y + s * g.tap_x;
            for (int c = 0; c < g.inputs; c++, tap += LANES, w += K) {
                Vec in[P];
                for (int p = 0; p < P; p++) in[p] = load(tap + p * g.in_x);
                for (int k = 0; k < K; k++)
                    for (int p = 0; p < P; p++) sums[k][p] += w[k] * in[p];
            }
        }
    for (int k = 0; k < K; k++)
        for (int p = 0; p < P; p++) {
            Vec v = sums[k][p];
            if (relu) v = v < 0.f ? Vec{} : v;  // what is no number stays so
            store(y + p * g.out_x + k * LANES, v);
        }
}

// y[p][c] = sum over taps of w[tap][c] * x[tap][p][c]: C channels of P pixels, in registers.
template <int C, int P>
static void depthwise_block(const Conv& g, const float* x, const float* w, const float* bias,
                            bool relu, float* y) {
    Vec sums[P][C];
    for (int p = 0; p < P; p++)
        for (int c = 0; c < C; c++) sums[p][c] = all(bias ? bias[c] : 0.f);
    for (int r = 0; r < g.taps_y; r++)
        for (int s = 0; s < g.taps_x; s++, w += g.groups) {
            const float* tap = x + r * g.tap_y + s * g.tap_x;
            for (int c = 0; c < C; c++) {
                Vec weight = all(w[c]);
                for (int p = 0; p < P; p++) sums[p][c] += weight * load(tap + p * g.in_x + c * LANES);
            }
        }
    for (int p = 0; p < P; p++)
        for (int c = 0; c < C; c++) {
            Vec v = sums[p][c];
            if (relu) v = v < 0.f ? Vec{} : v;
            store(y + p * g.out_x + c * LANES, v);
        }
}

// The gradient of N weights (taps of input channels, at these offsets) of K outputs: sums over all
// pixels and lanes of dy[k] * x[n].
template <int K, int N>
static void weights_block(const Conv& g, const float* x, const ptrdiff_t* offsets, const float* dy,
                          float* dw, ptrdiff_t dw_k) {
    Vec sums[K][N] = {};
    for (int i = 0; i < g.height; i++) {
        const float *xs = x + i * g.in_y, *dys = dy + i * g.out_y;
        for (int j = 0; j < g.width; j++, xs += g.in_x, dys += g.out_x) {
            Vec d[K];
            for (int k = 0; k < K; k++) d[k] = load(dys + k * LANES);
            for (int n = 0; n < N; n++) {
                Vec in = load(xs + offsets[n]);
                for (int k = 0; k < K; k++) sums[k][n] += d[k] * in;
            }
        }
    }
    for (int k = 0; k < K; k++)
        for (int n = 0; n < N; n++) dw[k * dw_k + n] += sum_of_lanes(sums[k][n]);
}

// The same where each channel has its own kernel: N taps of C channels.
template <int C, int N>
static void depthwise_weights_block(const Conv& g, const float* x, const ptrdiff_t* offsets,
                                    const float* dy, float* dw, ptrdiff_t dw_c) {
    Vec sums[C][N] = {};
    for (int i = 0; i < g.height; i++) {
        const float *xs = x + i * g.in_y, *dys = dy + i * g.out_y;
        for (int j = 0; j < g.width; j++, xs += g.in_x, dys += g.out_x)
            for (int c = 0; c < C; c++) {
                Vec d = load(dys + c * LANES);
                for (int n = 0; n < N; n++) sums[c][n] += d * load(xs + offsets[n] + c * LANES);
            }
    }
    for (int c = 0; c < C; c++)
        for (int n = 0; n < N; n++) dw[c * dw_c + n] += sum_of_lanes(sums[c][n]);
}

// A kernel for each size of a block, chosen when it is known: block<a, b> for 1 <= a, b.
typedef void ConvBlock(const Conv&, const float*, const float*, const float*, bool, float*);
typedef void WeightsBlock(const Conv&, const float*, const ptrdiff_t*, const float*, float*, ptrdiff_t);
constexpr int within(int size, int most) { return size < most ? size : most; }

#define BLOCKS(NAME, TYPE, BLOCK, A, B)                                                             \
    template <int... I> static TYPE* NAME(int a, int b, std::integer_sequence<int, I...>) {         \
        static TYPE* const table[] = {                                                              \
            ((I / B + 1) * (I % B + 1) <= SUMS ? BLOCK<I / B + 1, within(I % B + 1, SUMS / (I / B + 1))> : nullptr)...}; \
        return table[(a - 1) * B + b - 1];                                                          \
    }                                                                                               \
    static TYPE* NAME(int a, int b) { return NAME(a, b, std::make_integer_sequence<int, A * B>()); }
BLOCKS(conv_kernel, ConvBlock, conv_block, MOST_OUTPUTS, MOST_PIXELS)
BLOCKS(depthwise_kernel, ConvBlock, depthwise_block, 8, MOST_PIXELS)
BLOCKS(weights_kernel, WeightsBlock, weights_block, 4, 6)
BLOCKS(depthwise_weights_kernel, WeightsBlock, depthwise_weights_block, 8, 3)
#undef BLOCKS

// y = convolution of x, which has its border already; `w` as `pack` lays it out.
static void conv(const Conv& g, const float* x, const float* w, const float* bias, bool relu,
                 float* y) {
    const int blocks = pieces_of(g.outputs, MOST_OUTPUTS);
    for (int i = 0; i < g.height; i++)
        for (int group = 0; group < g.groups; group++)
            for (int b = 0; b < blocks; b++) {
                const int k = piece(g.outputs, blocks, b), size = piece(g.outputs, blocks, b + 1) - k;
                const int runs = pieces_of(g.width, within(SUMS / size, MOST_PIXELS));
                const int out = group * g.outputs + k;
                const float* in = x + i * g.in_y + ptrdiff_t(group) * g.inputs * LANES;
                for (int run = 0; run < runs; run++) {
                    const int j = piece(g.width, runs, run), end = piece(g.width, runs, run + 1);
                    conv_kernel(size, end - j)(
                        g, in + j * g.in_x, w + ptrdiff_t(out) * g.taps() * g.inputs,
                        bias ? bias + out : nullptr, relu,
                        y + i * g.out_y + j * g.out_x + out * LANES);
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
                    for (int k = piece(g.outputs, blocks, b); k < piece(g.outputs, blocks, b + 1); k++)
                        *w++ = weights[(ptrdiff_t(group * g.outputs + k) * g.inputs + c) * g.taps() + t];
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
                    for (int k = piece(g.outputs, blocks, b); k < piece(g.outputs, blocks, b + 1); k++)
                        *w++ = weights[(ptrdiff_t(group * g.inputs + c) * g.outputs + k) * g.taps() + t];
}

static void depthwise(const Conv& g, const float* x, const float* w, const float* bias, bool relu,
                      float* y) {
    const int blocks = pieces_of(g.groups, 8);
    const int runs = pieces_of(g.width, within(SUMS / 8, MOST_PIXELS));
    for (int i = 0; i < g.height; i++)
        for (int run = 0; run < runs; run++) {
            const int j = piece(g.width, runs, run), end = piece(g.width, runs, run + 1);
            for (int b = 0; b < blocks; b++) {
                const int c = piece(g.groups, blocks, b), size = piece(g.groups, blocks, b + 1) - c;
                depthwise_kernel(size, end - j)(
                    g, x + i * g.in_y + j * g.in_x + c * LANES, w + c, bias ? bias + c : nullptr,
                    relu, y + i * g.out_y + j * g.out_x + c * LANES);
            }
        }
}

// dw (outputs, inputs, taps), one group after the other, is raised by the gradient of the weights.
static void conv_weights_of_rows(const Conv& g, const std::vector<ptrdiff_t>& offsets, const float* x,
                                 const float* dy, float* dw) {
    const int columns = int(offsets.size());
    if (g.depthwise()) {
        const int blocks = pieces_of(g.groups, 8), rows = pieces_of(columns, 3);
        for (int b = 0; b < blocks; b++)
            for (int row = 0; row < rows; row++) {
                const int c = piece(g.groups, blocks, b), size = piece(g.groups, blocks, b + 1) - c;
                const int n = piece(columns, rows, row), end = piece(columns, rows, row + 1);
                depthwise_weights_kernel(size, end - n)(
                    g, x + c * LANES, &offsets[n], dy + c * LANES, dw + c * columns + n, columns);
            }
        return;
    }
    const int blocks = pieces_of(g.outputs, 4), parts = pieces_of(columns, SUMS / 4);
    for (int group = 0; group < g.groups; group++)
        for (int part = 0; part < parts; part++)
            for (int b = 0; b < blocks; b++) {
                const int k = group * g.outputs + piece(g.outputs, blocks, b);
                const int size = piece(g.outputs, blocks, b + 1) - piece(g.outputs, blocks, b);
                const int n = piece(columns, parts, part), end = piece(columns, parts, part + 1);
                weights_kernel(size, end - n)(
                    g, x + ptrdiff_t(group) * g.inputs * LANES, &offsets[n], dy + k * LANES,
                    dw + ptrdiff_t(k) * columns + n, columns);
            }
}

// Each of its blocks goes through x and dy: as many rows at a time as the second cache holds.
constexpr int CHUNK = 256 * 1024;

static void conv_weights(const Conv& g, const float* x, const float* dy, float* dw) {
    std::vector<ptrdiff_t> offsets;
    for (int c = 0; c < g.inputs; c++)
        for (int r = 0; r < g.taps_y; r++)
            for (int s = 0; s < g.taps_x; s++) offsets.push_back(r * g.tap_y + s * g.tap_x + c * LANES);
    std::memset(dw, 0, sizeof(float) * g.groups * g.outputs * offsets.size());
    const ptrdiff_t bytes = sizeof(float) * g.width * (g.out_x + g.in_x);
    const int chunks = pieces_of(g.height, int(CHUNK / bytes) + 1);
    for (int chunk = 0; chunk < chunks; chunk++) {
        Conv part = g;
        const int i = piece(g.height, chunks, chunk);
        part.height = piece(g.height, chunks, chunk + 1) - i;
        conv_weights_of_rows(part, offsets, x + i * g.in_y, dy + i * g.out_y, dw);
    }
}

// A picture (height, width, channels) put into the middle of zeros, `spread` apart; what a negative
// border cuts off is left out. `to` has its zeros already where nothing of the picture goes.
static void place(const float* from, int height, int width, int channels, float* to, int to_height,
                  int to_width, int top, int left, int spread_y, int spread_x) {
    const ptrdiff_t pixel = ptrdiff_t(channels) * LANES;
    std::memset(to, 0, sizeof(float) * to_height * to_width * pixel);
    for (int i = 0; i < height; i++)
        for (int j = 0; j < width; j++) {
            const int y = top + i * spread_y, x = left + j * spread_x;
            if (y < 0 || y >= to_height || x < 0 || x >= to_width) continue;
            std::memcpy(to + (ptrdiff_t(y) * to_width + x) * pixel,
                        from + (ptrdiff_t(i) * width + j) * pixel, sizeof(float) * pixel);
        }
}

// ---- Batch normalisation ------------------------------------------------------------------------

// f(std::integral_constant<int, n>) for n of 1..8: the number is known when f is compiled.
template <typename F>
static inline void with_count(int n, F&& f) {
    switch (n) {
        case 1: return f(std::integral_constant<int, 1>{});
        case 2: return f(std::integral_constant<int, 2>{});
        case 3: return f(std::integral_constant<int, 3>{});
        case 4: return f(std::integral_constant<int, 4>{});
        case 5: return f(std::integral_constant<int, 5>{});
        case 6: return f(std::integral_constant<int, 6>{});
        case 7: return f(std::integral_constant<int, 7>{});
        default: return f(std::integral_constant<int, 8>{});
    }
}

// sums[c] = of(c, position of channel c of a pixel), added up over pixels and over the lanes that
// hold images.
template <typename F>
static void sum_channels(int pixels, int channels, IntVec lanes, float* sums, F&& of) {
    const int blocks = pieces_of(channels, 8);
    for (int b = 0; b < blocks; b++) {
        const int first = piece(channels, blocks, b);
        with_count(piece(channels, blocks, b + 1) - first, [&](auto count) {
            Vec sum[count] = {};
            for (int i = 0; i < pixels; i++)
                for (int c = 0; c < count; c++)
                    sum[c] += of(first + c, (ptrdiff_t(i) * channels + first + c) * LANES);
            for (int c = 0; c < count; c++) sums[first + c] = sum_of_lanes(lanes ? sum[c] : Vec{});
        });
    }
}

// The mean of each channel of a tile, and the sum of squares of differences from it: (2, channels).
static void moments(const float* x, int pixels, int channels, int images, float* found) {
    const IntVec lanes = first_lanes(images);
    sum_channels(pixels, channels, lanes, found, [&](int, ptrdiff_t at) { return load(x + at); });
    for (int c = 0; c < channels; c++) found[c] /= float(pixels) * images;
    sum_channels(pixels, channels, lanes, found + channels, [&](int c, ptrdiff_t at) {
        const Vec difference = load(x + at) - found[c];
        return difference * difference;
    });
}

// ---- Elementwise functions ----------------------------------------------------------------------

enum Activation { IDENTITY, RELU, SILU, GELU, GELU_TANH, TANH, SIGMOID };

// e to the power of x, to within two units in the last place: Cephes' expf.
static inline Vec exponential(Vec x) {
    const Vec clamped = x > 88.7f ? all(88.7f) : x < -87.3f ? all(-87.3f) : x;
    const Vec times = clamped * 1.44269504088896341f;
    const IntVec n = __builtin_convertvector(times + (times < 0.f ? all(-0.5f) : all(0.5f)), IntVec);
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
    return x > 88.7f ? (x > 88.72283f ? all(INFINITY) : result) : x < -87.3f ? Vec{} : x == x ? result : x;
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
        case RELU: return x < 0.f ? Vec{} : x;  // what is no number stays so
        case SILU: return x * sigmoid(x);
        case GELU: return 0.5f * x * (1.f + error_function(x * 0.70710678f));
        case GELU_TANH:
            return 0.5f * x * (1.f + hyperbolic_tangent(0.79788456f * (x + 0.044715f * x * x * x)));
        case TANH: return hyperbolic_tangent(x);
        case SIGMOID: return sigmoid(x);
        default: return x;
    }
}

// The derivative at x.
static inline Vec slope_of(int activation, Vec x) {
    switch (activation) {
        case RELU: return x <= 0.f ? Vec{} : all(1.f);
        case SILU: { const Vec s = sigmoid(x); return s * (1.f + x * (1.f - s)); }
        case GELU:
            return 0.5f * (1.f + error_function(x * 0.70710678f))
                 + x * 0.39894228f * exponential(-0.5f * x * x);
        case GELU_TANH: {
            const Vec t = hyperbolic_tangent(0.79788456f * (x + 0.044715f * x * x * x));
            return 0.5f * (1.f + t) + 0.5f * x * (1.f - t * t) * 0.79788456f * (1.f + 0.134145f * x * x);
        }
        case TANH: { const Vec t = hyperbolic_tangent(x); return 1.f - t * t; }
        case SIGMOID: { const Vec s = sigmoid(x); return s * (1.f - s); }
        default: return all(1.f);
    }
}

// ---- Dropout ------------------------------------------------------------------------------------

// Random bits, of each lane its own: Doty-Humphrey's SFC32. A tile of a layer has its own seed, so
// that its backward pass draws the same masks again in place of keeping them.
class Random {
    UIntVec a, b, c, counter;
    UIntVec spare;
    bool has_spare = false;

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
    // All bits of the lanes that are below `bound` of 2**16: two decisions for each draw.
    IntVec below(uint32_t bound) {
        if (has_spare) {
            has_spare = false;
            return spare < bound;
        }
        const UIntVec sum = a + b + counter++;
        a = b ^ (b >> 9);
        b = c + (c << 3);
        c = ((c << 21) | (c >> 11)) + sum;
        spare = sum >> 16, has_spare = true;
        return (sum & 0xFFFF) < bound;
    }
};
