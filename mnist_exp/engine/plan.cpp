// A plan: the kernels of a network in their order, over buffers that are laid out once.
//
// A plan has programs (forward, backward), a program has stages, and a stage has operations. In a
// stage "of tiles" each tile goes through all operations on one thread, so that what one writes is
// still in the cache when the next reads it. Threads wait for each other between stages only. In a
// stage "of its own" each operation happens once; there sums over tiles are added up, always in the
// same order. plan.py says what is done; nothing is decided here.
#include <time.h>

#include <chrono>
#include <cstdlib>

#include "kernels.h"
#include "pool.h"

namespace {

enum Kind { OF_TILE, OF_THREAD, OF_ALL, KINDS };

struct Buffer {
    int kind;
    size_t offset;  // in floats, from the beginning of what a tile, thread or all have
};

struct Memory {
    size_t sizes[KINDS];
    float* begin[KINDS];
};

// What an operation is given of the run that it is part of.
struct At {
    const std::vector<Buffer>& buffers;
    const Memory& memory;
    float* const* tensors;
    const double* numbers;
    const int64_t* integers;
    int images, tiles, tile, thread;

    float* operator[](int buffer) const { return of_tile(buffer, tile); }
    float* of_tile(int buffer, int which) const {
        if (buffer < 0) return nullptr;
        const Buffer& b = buffers[buffer];
        const size_t index = b.kind == OF_TILE ? which : b.kind == OF_THREAD ? thread : 0;
        return memory.begin[b.kind] + index * memory.sizes[b.kind] + b.offset;
    }
    float* tensor(int which) const { return which < 0 ? nullptr : tensors[which]; }
    int images_of(int which) const { return within(images - which * LANES, LANES); }
    int images_here() const { return images_of(tile); }
};

struct Operation {
    std::function<void(const At&)> run;
    double seconds = 0;  // in a run that is timed
};

struct Stage {
    bool of_tiles;
    std::vector<Operation> operations;
};

// The time that this thread has had a processor.
double seconds_of_thread() {
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return time.tv_sec + 1e-9 * time.tv_nsec;
}

constexpr size_t LINE = 64;  // bytes that the cache moves at once

}  // namespace

struct Plan {
    std::vector<Buffer> buffers;
    size_t sizes[KINDS] = {};
    std::vector<std::vector<Stage>> programs;

    void add(std::function<void(const At&)> run) {
        programs.back().back().operations.push_back({std::move(run)});
    }
};

extern "C" {

int lanes() { return LANES; }
void set_threads(int count) { Threads::of_process().count = count; }

Plan* plan_new() { return new Plan; }
void plan_free(Plan* plan) { delete plan; }

int plan_buffer(Plan* plan, int kind, int64_t floats) {
    plan->buffers.push_back({kind, plan->sizes[kind]});
    const size_t line = LINE / sizeof(float);
    plan->sizes[kind] += (floats + line - 1) / line * line;
    return int(plan->buffers.size()) - 1;
}
void plan_program(Plan* plan) { plan->programs.emplace_back(); }
void plan_stage(Plan* plan, int of_tiles) {
    plan->programs.back().push_back({bool(of_tiles), {}});
}

// Memory for so many tiles and threads; null where there is none left.
Memory* memory_new(const Plan* plan, int tiles, int threads) {
    const int counts[KINDS] = {tiles, threads, 1};
    auto* memory = new Memory{};
    for (int kind = 0; kind < KINDS; kind++) {
        // An odd number of lines from one tile to the next, so that not all of them fall upon the
        // same few places of a cache.
        memory->sizes[kind] = (plan->sizes[kind] * sizeof(float) / LINE | 1) * LINE / sizeof(float);
        const size_t bytes = memory->sizes[kind] * sizeof(float) * counts[kind];
        memory->begin[kind] = static_cast<float*>(std::aligned_alloc(LINE, bytes));
        if (!memory->begin[kind]) {
            for (float* begin : memory->begin) std::free(begin);
            delete memory;
            return nullptr;
        }
    }
    return memory;
}
void memory_free(Memory* memory) {
    for (float* begin : memory->begin) std::free(begin);
    delete memory;
}

// Run a program for a batch of images, on as many threads as `set_threads` said, at most `threads`.
void plan_run(Plan* plan, const Memory* memory, int program, int images, float* const* tensors,
              const double* numbers, const int64_t* integers, int timed) {
    auto& stages = plan->programs[program];
    const int tiles = pieces_of(images, LANES);
    std::vector<std::atomic<int>> next(stages.size());
    Barrier barrier;
    Threads::of_process().run([&](int thread, int threads) {
        for (size_t s = 0; s < stages.size(); s++) {
            Stage& stage = stages[s];
            const int operations = int(stage.operations.size());
            const int tasks = stage.of_tiles ? tiles : operations;
            for (int task; (task = next[s].fetch_add(1)) < tasks;) {
                const At at{plan->buffers, *memory, tensors, numbers, integers, images, tiles,
                            stage.of_tiles ? task : 0, thread};
                const int first = stage.of_tiles ? 0 : task, end = stage.of_tiles ? operations : task + 1;
                for (int i = first; i < end; i++) {
                    Operation& operation = stage.operations[i];
                    if (!timed) {
                        operation.run(at);
                        continue;
                    }
                    const double begun = seconds_of_thread();
                    operation.run(at);
                    operation.seconds += seconds_of_thread() - begun;
                }
            }
            if (threads > 1 && s + 1 < stages.size()) barrier.wait(threads);
        }
    });
}

// The seconds of each operation of a program in all its timed runs, in order; returns how many.
int plan_seconds(const Plan* plan, int program, double* seconds) {
    int count = 0;
    for (const Stage& stage : plan->programs[program])
        for (const Operation& operation : stage.operations) {
            if (seconds) seconds[count] = operation.seconds;
            count++;
        }
    return count;
}

// ---- In and out ---------------------------------------------------------------------------------

// A tensor (N, channels, pixels) into tiles. In lanes without an image stands the last one again,
// so that they hold nothing that an image does not; of gradients, zero.
void add_load(Plan* plan, int tensor, int y, int channels, int pixels, int gradient) {
    plan->add([=](const At& at) {
        const ptrdiff_t size = ptrdiff_t(channels) * pixels;
        const float* from = at.tensor(tensor) + at.tile * LANES * size;
        float* to = at[y];
        const int images = at.images_here();
        for (int lane = 0; lane < LANES; lane++) {
            const float* image = from + within(lane, images - 1) * size;
            const bool empty = gradient && lane >= images;
            for (int c = 0; c < channels; c++)
                for (int i = 0; i < pixels; i++)
                    to[(ptrdiff_t(i) * channels + c) * LANES + lane] = empty ? 0.f : image[c * pixels + i];
        }
    });
}

// And back, without the lanes that have no image.
void add_store(Plan* plan, int x, int tensor, int channels, int pixels) {
    plan->add([=](const At& at) {
        const ptrdiff_t size = ptrdiff_t(channels) * pixels;
        float* to = at.tensor(tensor) + at.tile * LANES * size;
        const float* from = at[x];
        for (int lane = 0; lane < at.images_here(); lane++)
            for (int c = 0; c < channels; c++)
                for (int i = 0; i < pixels; i++)
                    to[lane * size + c * pixels + i] = from[(ptrdiff_t(i) * channels + c) * LANES + lane];
    });
}

// ---- Convolution --------------------------------------------------------------------------------

static Conv geometry(int inputs, int outputs, int groups, int taps_y, int taps_x, int height,
                     int width, int in_width, int step_y, int step_x, int apart_y, int apart_x) {
    const ptrdiff_t in = ptrdiff_t(inputs) * groups * LANES, out = ptrdiff_t(outputs) * groups * LANES;
    Conv g{inputs, outputs, groups, taps_y, taps_x, height, width,
           apart_y * in_width * in, apart_x * in, step_y * in_width * in, step_x * in,
           width * out, out};
    return g;
}

// The same where all pixels are one row: no tap looks beyond its own.
static Conv as_one_row(Conv g) {
    if (g.taps() == 1 && g.in_y == g.width * g.in_x && g.out_y == g.width * g.out_x)
        g.width *= g.height, g.height = 1;
    return g;
}

void add_pack(Plan* plan, int weight, int packed, int inputs, int outputs, int groups, int taps_y,
              int taps_x, int turned) {
    const Conv g = geometry(inputs, outputs, groups, taps_y, taps_x, 1, 1, 1, 1, 1, 1, 1);
    plan->add([=](const At& at) {
        (turned ? pack_turned : pack)(g, at.tensor(weight), at[packed]);
    });
}

void add_conv(Plan* plan, int x, int y, int packed, int bias, int relu, int inputs, int outputs,
              int groups, int taps_y, int taps_x, int height, int width, int in_width, int step_y,
              int step_x, int apart_y, int apart_x) {
    const Conv g = as_one_row(geometry(inputs, outputs, groups, taps_y, taps_x, height, width, in_width,
                                       step_y, step_x, apart_y, apart_x));
    plan->add([=](const At& at) {
        (g.depthwise() ? depthwise : conv)(g, at[x], at[packed], at.tensor(bias), relu, at[y]);
    });
}

void add_conv_weights(Plan* plan, int x, int dy, int partial, int inputs, int outputs, int groups,
                      int taps_y, int taps_x, int height, int width, int in_width, int step_y,
                      int step_x, int apart_y, int apart_x) {
    const Conv g = geometry(inputs, outputs, groups, taps_y, taps_x, height, width, in_width, step_y,
                            step_x, apart_y, apart_x);
    plan->add([=](const At& at) { conv_weights(g, at[x], at[dy], at[partial]); });
}

void add_place(Plan* plan, int x, int y, int channels, int height, int width, int to_height,
               int to_width, int top, int left, int spread_y, int spread_x) {
    plan->add([=](const At& at) {
        place(at[x], height, width, channels, at[y], to_height, to_width, top, left, spread_y, spread_x);
    });
}

void add_channel_sums(Plan* plan, int x, int partial, int channels, int pixels) {
    plan->add([=](const At& at) {
        const float* from = at[x];
        sum_channels(pixels, channels, first_lanes(at.images_here()), at[partial],
                     [&](int, ptrdiff_t i) { return load(from + i); });
    });
}

// A gradient is `by`, or, where a tensor is used `again`, more by that.
static void raise(float& gradient, double by, int again) { gradient = float((again ? gradient : 0) + by); }

// A gradient: the sum of what each use of a weight has of each tile, and, `again`, of what is there.
void add_sum_tiles(Plan* plan, const int* partials, int uses, int tensor, int again, int floats) {
    const std::vector<int> all(partials, partials + uses);
    plan->add([=](const At& at) {
        float* to = at.tensor(tensor);
        std::vector<double> sums(floats);
        for (int partial : all)
            for (int tile = 0; tile < at.tiles; tile++) {
                const float* from = at.of_tile(partial, tile);
                for (int i = 0; i < floats; i++) sums[i] += from[i];
            }
        for (int i = 0; i < floats; i++) raise(to[i], sums[i], again);
    });
}

// ---- Batch normalisation ------------------------------------------------------------------------

// Of each channel: slope, offset, mean and 1 / standard deviation, one after the other.
struct Norm {
    float *slope, *offset, *mean, *inverse;
    Norm(float* at, int channels)
        : slope(at), offset(at + channels), mean(at + 2 * channels), inverse(at + 3 * channels) {}
    void set(int c, double m, double variance, double eps, const float* weight, const float* bias) {
        const double inv = 1 / std::sqrt(variance + eps);
        mean[c] = float(m), inverse[c] = float(inv);
        slope[c] = float((weight ? weight[c] : 1) * inv);
        offset[c] = float((bias ? bias[c] : 0) - (weight ? weight[c] : 1) * inv * m);
    }
};

void add_moments(Plan* plan, int x, int partial, int channels, int pixels) {
    plan->add([=](const At& at) {
        moments(at[x], pixels, channels, at.images_here(), at[partial]);
    });
}

// From the moments of the tiles to those of the batch (Chan, Golub and LeVeque 1979), and, as torch
// does, into the moving averages: of the mean, and of the unbiased variance.
void add_norm(Plan* plan, int partial, int norm, int weight, int bias, int running_mean,
              int running_var, int momentum, int channels, int pixels, double eps) {
    plan->add([=](const At& at) {
        Norm n(at[norm], channels);
        for (int c = 0; c < channels; c++) {
            double count = 0, mean = 0, squares = 0;
            for (int tile = 0; tile < at.tiles; tile++) {
                const float* found = at.of_tile(partial, tile);
                const double more = double(pixels) * at.images_of(tile), difference = found[c] - mean;
                squares += found[channels + c] + difference * difference * count * more / (count + more);
                mean += difference * more / (count + more);
                count += more;
            }
            n.set(c, mean, squares / count, eps, at.tensor(weight), at.tensor(bias));
            if (running_mean >= 0) {
                const double m = at.numbers[momentum];
                float &moving_mean = at.tensor(running_mean)[c], &moving_var = at.tensor(running_var)[c];
                moving_mean = float((1 - m) * moving_mean + m * mean);
                moving_var = float((1 - m) * moving_var + m * squares / (count - 1));
            }
        }
    });
}

// The same by moving averages that stay as they are.
void add_fixed_norm(Plan* plan, int norm, int weight, int bias, int running_mean, int running_var,
                    int channels, double eps) {
    plan->add([=](const At& at) {
        Norm n(at[norm], channels);
        for (int c = 0; c < channels; c++)
            n.set(c, at.tensor(running_mean)[c], at.tensor(running_var)[c], eps, at.tensor(weight),
                  at.tensor(bias));
    });
}

// The gradients of weight and bias; and of each channel a, b and c in dx = a d + b x + c (Ioffe and
// Szegedy 2015), where d is the gradient behind the normalisation.
void add_norm_gradient(Plan* plan, int partial, int norm, int terms, int dweight, int weight_again,
                       int dbias, int bias_again, int channels, int pixels, int fixed) {
    plan->add([=](const At& at) {
        const Norm n(at[norm], channels);
        float* to = at[terms];
        for (int c = 0; c < channels; c++) {
            double sum = 0, product = 0;  // of d, and of d * normalised x
            for (int tile = 0; tile < at.tiles; tile++) {
                const float* found = at.of_tile(partial, tile);
                sum += found[c], product += found[channels + c];
            }
            if (dbias >= 0) raise(at.tensor(dbias)[c], sum, bias_again);
            if (dweight >= 0) raise(at.tensor(dweight)[c], product, weight_again);
            const double count = double(at.images) * pixels;
            const double by_x = fixed ? 0 : -double(n.slope[c]) * n.inverse[c] * product / count;
            to[c] = n.slope[c];
            to[channels + c] = float(by_x);
            to[2 * channels + c] = float(fixed ? 0 : -n.slope[c] * sum / count - by_x * n.mean[c]);
        }
    });
}

// If `relu`, x is what a ReLU made, behind which the gradient is wanted.
void add_norm_back(Plan* plan, int d, int x, int dx, int terms, int relu, int channels, int pixels) {
    plan->add([=](const At& at) {
        const float *from = at[d], *input = at[x], *a = at[terms], *b = a + channels, *c = b + channels;
        float* to = at[dx];
        const IntVec lanes = first_lanes(at.images_here());
        for (int i = 0; i < pixels; i++)
            for (int k = 0; k < channels; k++, from += LANES, input += LANES, to += LANES) {
                const Vec in = load(input), v = a[k] * load(from) + b[k] * in + c[k];
                const IntVec passes = relu ? lanes & ~(in <= 0.f) : lanes;
                store(to, passes ? v : Vec{});
            }
    });
}

// ---- Elementwise --------------------------------------------------------------------------------

}  // extern "C"

// f(std::integral_constant) for the activations whose loops are worth one of their own.
template <typename F>
static void with_activation(int activation, F&& f) {
    switch (activation) {
        case IDENTITY: return f(std::integral_constant<int, IDENTITY>{});
        case RELU: return f(std::integral_constant<int, RELU>{});
        case SILU: return f(std::integral_constant<int, SILU>{});
        case GELU: return f(std::integral_constant<int, GELU>{});
        case GELU_TANH: return f(std::integral_constant<int, GELU_TANH>{});
        case TANH: return f(std::integral_constant<int, TANH>{});
        default: return f(std::integral_constant<int, SIGMOID>{});
    }
}

namespace {
// How dropout goes on in a tile: which share is kept, in 2**-16, and its masks.
struct Dropout {
    uint32_t kept;
    float scale;
    Random random;
    // integers[which]: what is kept, then the seed of the layer.
    Dropout(const At& at, int which)
        : kept(which < 0 ? 0 : uint32_t(at.integers[which])),
          scale(which < 0 ? 1.f : 65536.f / float(kept)),
          random(which < 0 ? 0 : uint64_t(at.integers[which + 1]) + uint64_t(at.tile) * 0xD1342543DE82EF95u) {}
    // What is no number stays so, dropped or not, as in torch.
    Vec operator()(Vec v) { return v * (random.below(kept) ? all(scale) : Vec{}); }
};
}  // namespace

extern "C" {

// y = dropout(activation(slope * x + offset)); each of the three may be left out (norm < 0,
// IDENTITY, drop < 0).
void add_map(Plan* plan, int x, int y, int norm, int activation, int drop, int channels, int pixels) {
    plan->add([=](const At& at) {
        const float *from = at[x], *slope = at[norm], *offset = slope + channels;
        float* to = at[y];
        Dropout dropout(at, drop);
        with_activation(activation, [&](auto which) {
            for (int i = 0; i < pixels; i++)
                for (int c = 0; c < channels; c++, from += LANES, to += LANES) {
                    Vec v = load(from);
                    if (norm >= 0) v = v * slope[c] + offset[c];
                    v = activated(which, v);
                    store(to, drop >= 0 ? dropout(v) : v);
                }
        });
    });
}

// d = the gradient behind the normalisation, of that of y; and if partial >= 0, its sums by channel
// and those of its product with the normalised x.
void add_map_back(Plan* plan, int dy, int x, int d, int norm, int activation, int drop, int partial,
                  int channels, int pixels) {
    plan->add([=](const At& at) {
        const float *from = at[dy], *input = at[x], *slope = at[norm], *offset = slope + channels;
        float* to = at[d];
        const float *mean = slope + 2 * channels, *inverse = slope + 3 * channels;
        Dropout dropout(at, drop);
        std::vector<Vec> sums(partial < 0 ? 0 : 2 * channels);  // in the first cache
        with_activation(activation, [&](auto which) {
            for (int i = 0; i < pixels; i++)
                for (int c = 0; c < channels; c++, from += LANES, input += LANES, to += LANES) {
                    Vec v = load(from);
                    if (drop >= 0) v = dropout(v);
                    const Vec z = which != IDENTITY || partial >= 0 ? load(input) : Vec{};
                    if (which != IDENTITY) v *= slope_of(which, norm >= 0 ? z * slope[c] + offset[c] : z);
                    store(to, v);
                    if (partial >= 0) {
                        sums[c] += v;
                        sums[channels + c] += v * ((z - mean[c]) * inverse[c]);
                    }
                }
        });
        const IntVec lanes = first_lanes(at.images_here());
        for (size_t c = 0; c < sums.size(); c++) at[partial][c] = sum_of_lanes(lanes ? sums[c] : Vec{});
    });
}

// y = scale * x + shift.
void add_affine(Plan* plan, int x, int y, double scale, double shift, int vectors) {
    const float a = float(scale), b = float(shift);
    plan->add([=](const At& at) {
        const float* from = at[x];
        float* to = at[y];
        for (ptrdiff_t i = 0; i < ptrdiff_t(vectors) * LANES; i += LANES) store(to + i, load(from + i) * a + b);
    });
}

// y = a + sign * b, or a * b where sign is 0. An operand may have one pixel or one channel only,
// which then stands for all.
void add_combine(Plan* plan, int a, int b, int y, int sign, int a_pixels, int a_channels,
                 int b_pixels, int b_channels) {
    const int pixels = a_pixels > b_pixels ? a_pixels : b_pixels;
    const int channels = a_channels > b_channels ? a_channels : b_channels;
    plan->add([=](const At& at) {
        float* to = at[y];
        for (int i = 0; i < pixels; i++) {
            const float* left = at[a] + ptrdiff_t(a_pixels > 1 ? i : 0) * a_channels * LANES;
            const float* right = at[b] + ptrdiff_t(b_pixels > 1 ? i : 0) * b_channels * LANES;
            for (int c = 0; c < channels; c++, to += LANES) {
                const Vec u = load(left + (a_channels > 1 ? c : 0) * LANES);
                const Vec v = load(right + (b_channels > 1 ? c : 0) * LANES);
                store(to, sign > 0 ? u + v : sign < 0 ? u - v : u * v);
            }
        }
    });
}

// y = the sum of x over what `combine` has repeated: pixels, channels or both.
void add_reduce(Plan* plan, int x, int y, int pixels, int channels, int to_pixels, int to_channels) {
    plan->add([=](const At& at) {
        const float* from = at[x];
        float* to = at[y];
        std::memset(to, 0, sizeof(float) * to_pixels * to_channels * LANES);
        for (int i = 0; i < pixels; i++) {
            float* row = to + ptrdiff_t(to_pixels > 1 ? i : 0) * to_channels * LANES;
            for (int c = 0; c < channels; c++, from += LANES) {
                float* sum = row + (to_channels > 1 ? c : 0) * LANES;
                store(sum, load(sum) + load(from));
            }
        }
    });
}

// Some channels of x as some channels of y: each from its own first one on.
void add_copy_channels(Plan* plan, int x, int y, int pixels, int count, int x_channels, int x_first,
                       int y_channels, int y_first) {
    plan->add([=](const At& at) {
        for (int i = 0; i < pixels; i++)
            std::memcpy(at[y] + (ptrdiff_t(i) * y_channels + y_first) * LANES,
                        at[x] + (ptrdiff_t(i) * x_channels + x_first) * LANES,
                        sizeof(float) * count * LANES);
    });
}

// What is [rows][columns] becomes [columns][rows]: from pixels and channels to torch's order of
// flattened features, channel by channel, and back.
void add_transpose(Plan* plan, int x, int y, int rows, int columns) {
    plan->add([=](const At& at) {
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < columns; j++)
                store(at[y] + (ptrdiff_t(j) * rows + i) * LANES,
                      load(at[x] + (ptrdiff_t(i) * columns + j) * LANES));
    });
}

// ---- Pooling ------------------------------------------------------------------------------------

}  // extern "C"

namespace {
// Which rows and columns of the input each pixel of the output is of, and by what a mean divides.
struct Windows {
    int height, width, in_width, channels;
    std::vector<int> rows, columns;  // from, to, of each row and column of the output
    std::vector<float> divisors;     // (height, width)

    template <typename F>  // f(pixel of the output, first position in the input, rows, columns)
    void each(F&& f) const {
        for (int i = 0; i < height; i++)
            for (int j = 0; j < width; j++)
                f(i * width + j, ptrdiff_t(rows[2 * i]) * in_width + columns[2 * j],
                  rows[2 * i + 1] - rows[2 * i], columns[2 * j + 1] - columns[2 * j]);
    }
};

Windows windows(int height, int width, int in_width, int channels, const int* rows,
                const int* columns, const float* divisors) {
    return {height, width, in_width, channels, {rows, rows + 2 * height},
            {columns, columns + 2 * width}, {divisors, divisors + height * width}};
}
}  // namespace

extern "C" {

void add_pool(Plan* plan, int x, int y, int mean, int height, int width, int in_width, int channels,
              const int* rows, const int* columns, const float* divisors) {
    const Windows w = windows(height, width, in_width, channels, rows, columns, divisors);
    plan->add([=](const At& at) {
        w.each([&](int pixel, ptrdiff_t first, int down, int across) {
            const float* from = at[x] + first * w.channels * LANES;
            float* to = at[y] + ptrdiff_t(pixel) * w.channels * LANES;
            for (int c = 0; c < w.channels; c++, from += LANES, to += LANES) {
                Vec found = all(mean ? 0.f : -INFINITY);
                for (int r = 0; r < down; r++)
                    for (int s = 0; s < across; s++) {
                        const Vec v = load(from + (ptrdiff_t(r) * w.in_width + s) * w.channels * LANES);
                        if (mean) found += v;
                        else found = (v > found) | (v != v) ? v : found;
                    }
                store(to, mean ? found / w.divisors[pixel] : found);
            }
        });
    });
}

// Of a maximum, the first pixel that has it gets the gradient, as in torch.
void add_pool_back(Plan* plan, int x, int y, int dy, int dx, int mean, int height, int width,
                   int in_height, int in_width, int channels, const int* rows, const int* columns,
                   const float* divisors) {
    const Windows w = windows(height, width, in_width, channels, rows, columns, divisors);
    plan->add([=](const At& at) {
        std::memset(at[dx], 0, sizeof(float) * in_height * w.in_width * w.channels * LANES);
        w.each([&](int pixel, ptrdiff_t first, int down, int across) {
            for (int c = 0; c < w.channels; c++) {
                const ptrdiff_t out = (ptrdiff_t(pixel) * w.channels + c) * LANES;
                const Vec d = load(at[dy] + out);
                const Vec most = mean ? Vec{} : load(at[y] + out);
                IntVec open = IntVec{} - 1;  // no pixel has it yet
                for (int r = 0; r < down; r++)
                    for (int s = 0; s < across; s++) {
                        const ptrdiff_t i =
                            ((first + ptrdiff_t(r) * w.in_width + s) * w.channels + c) * LANES;
                        Vec share = d / w.divisors[pixel];
                        if (!mean) {
                            const Vec v = load(at[x] + i);
                            const IntVec is_it = open & ((v == most) | (v != v));
                            open &= ~is_it;
                            share = is_it ? d : Vec{};
                        }
                        store(at[dx] + i, load(at[dx] + i) + share);
                    }
            }
        });
    });
}

// ---- Logarithm of softmax, over channels --------------------------------------------------------

void add_log_softmax(Plan* plan, int x, int y, int channels, int pixels) {
    plan->add([=](const At& at) {
        for (int i = 0; i < pixels; i++) {
            const float* from = at[x] + ptrdiff_t(i) * channels * LANES;
            float* to = at[y] + ptrdiff_t(i) * channels * LANES;
            Vec most = load(from), sum{};
            for (int c = 1; c < channels; c++) {
                const Vec v = load(from + c * LANES);
                most = (v > most) | (v != v) ? v : most;
            }
            for (int c = 0; c < channels; c++) sum += exponential(load(from + c * LANES) - most);
            for (int lane = 0; lane < LANES; lane++) sum[lane] = std::log(sum[lane]);
            for (int c = 0; c < channels; c++) store(to + c * LANES, load(from + c * LANES) - most - sum);
        }
    });
}

void add_log_softmax_back(Plan* plan, int y, int dy, int dx, int channels, int pixels) {
    plan->add([=](const At& at) {
        for (int i = 0; i < pixels; i++) {
            const ptrdiff_t first = ptrdiff_t(i) * channels * LANES;
            Vec sum{};
            for (int c = 0; c < channels; c++) sum += load(at[dy] + first + c * LANES);
            for (int c = 0; c < channels; c++) {
                const ptrdiff_t j = first + c * LANES;
                store(at[dx] + j, load(at[dy] + j) - exponential(load(at[y] + j)) * sum);
            }
        }
    });
}

// ---- What the processor can do ------------------------------------------------------------------

// The most that one thread reaches: multiply-adds in registers, in 1e9 operations a second.
double peak_gflops(double seconds) {
    constexpr int CHAINS = 12;  // enough of them that none waits for itself
    double best = 0;
    for (double spent = 0; spent < seconds;) {
        Vec sums[CHAINS];
        for (int i = 0; i < CHAINS; i++) sums[i] = all(float(i));
        const Vec factor = all(0.999999f), term = all(1e-7f);
        const int rounds = 200000;
        const auto begun = std::chrono::steady_clock::now();
        for (int round = 0; round < rounds; round++) {
#pragma GCC unroll 12
            for (int i = 0; i < CHAINS; i++) sums[i] = sums[i] * factor + term;
        }
        const double took =
            std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
        for (int i = 1; i < CHAINS; i++) sums[0] += sums[i];
        volatile float kept = sum_of_lanes(sums[0]);
        (void)kept;
        spent += took;
        const double reached = 2.0 * rounds * CHAINS * LANES / took / 1e9;
        if (reached > best) best = reached;
    }
    return best;
}

}  // extern "C"
