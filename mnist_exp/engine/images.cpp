// Kernels that prepare a batch of images, each image by itself; images.py says what each gives.
//
// Images are float32 (N, C, H, W), contiguous. A plane is one channel of one image, (H, W).
// Nothing is read outside of a plane and the zeros around it, whatever a matrix holds: each place
// is brought within these bounds while it is still a float, and one that is no number, too.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#include "pool.h"

namespace {

// Both neighbours of a place are read, so that a pixel of the image and one from outside can blend.
constexpr int BORDER = 2;

// A copy of a plane between zeros, so that no loop has to ask whether it is still inside.
class Padded {
 public:
    const int height, width, stride;  // of a row with what is beside it

    Padded(int height, int width, int above, int beside)
        : height(height),
          width(width),
          stride(width + 2 * beside),
          first(above * stride + beside),
          pixels(size_t(height + 2 * above) * stride) {}

    void copy(const float* plane) {
        for (int row = 0; row < height; ++row)
            std::memcpy(&pixels[first + row * stride], plane + row * width, width * sizeof(float));
    }

    const float* origin() const { return &pixels[first]; }

 private:
    const int first;
    std::vector<float> pixels;
};

// `low` for NaN.
inline float within(float place, float low, float high) {
    const float above = place > low ? place : low;
    return above < high ? above : high;
}

// The whole pixel at or before a place on an axis of `size` pixels, in -BORDER..size. A float is
// cut off towards zero when it becomes an int, so that it has to be positive.
inline int at_or_before(float place, int size) {
    return int(within(place, -BORDER, size) + BORDER) - BORDER;
}

// The pixel nearest to a place, the even one of two, in -BORDER..size.
inline int nearest(float place, int size) {
    constexpr float whole = 3 << 22;  // floats of this size have no fraction: a sum is rounded
    return int(within(place, -BORDER, size) + whole - whole);
}

// So many numbers are whole vectors of any processor: a loop over them has no rest, which would be
// slow. What lies beyond the width of an image is computed, and not used.
inline int in_vectors(int width) { return (width + 15) / 16 * 16; }

// The middle of an axis lies between two pixels where their number is even.
inline float middle(int size) { return (size - 1) / 2.0f; }

// As preprocess.slant.
double slant(const float* image, int channels, int height, int width) {
    // Of each column: its ink, and that times the row and its square. Loops over columns are
    // vectors, and doubles leave nothing of the digits' whole numbers out.
    std::vector<double> moments(3 * size_t(width));
    double* __restrict ink = moments.data();
    double* __restrict ink_row = ink + width;
    double* __restrict ink_row_row = ink_row + width;
    for (int channel = 0; channel < channels; ++channel) {
        for (int row = 0; row < height; ++row, image += width) {
            const double y = row - middle(height);
            for (int column = 0; column < width; ++column) {
                const double pixel = image[column];
                ink[column] += pixel;
                ink_row[column] += pixel * y;
                ink_row_row[column] += pixel * y * y;
            }
        }
    }
    double sum = 0, sum_x = 0, sum_y = 0, sum_xy = 0, sum_yy = 0;
    for (int column = 0; column < width; ++column) {
        const double x = column - middle(width);
        sum += ink[column];
        sum_x += ink[column] * x;
        sum_y += ink_row[column];
        sum_xy += ink_row[column] * x;
        sum_yy += ink_row_row[column];
    }
    const double total = sum < 1 ? 1 : sum;  // NaN stays NaN, here and below
    const double mean_x = sum_x / total, mean_y = sum_y / total;
    const double covariance = sum_xy - mean_y * sum_x - mean_x * sum_y + mean_x * mean_y * sum;
    const double variance = sum_yy - 2 * mean_y * sum_y + mean_y * mean_y * sum;
    return covariance / (variance < 1 ? 1 : variance);
}

// These are functions and no lambdas: what a lambda holds is read from memory again after each
// store, and its loops are not vectors.

// matrices: float32 (N, 2, 3), as F.affine_grid takes them.
void warp(const float* images, const float* matrices, float* out, int64_t count, int channels,
          int height, int width) {
    // A matrix is of axes that go from -1 to 1, whatever their lengths; this is of pixels.
    const float ratio = float(width) / height;
    Padded padded(height, width, BORDER, BORDER);
    const float* origin = padded.origin();
    const int stride = padded.stride;
    const int columns = in_vectors(width);
    std::vector<int> places(columns);
    std::vector<float> rights(columns), downs(columns);
    int* __restrict place = places.data();
    float* __restrict right = rights.data();
    float* __restrict down = downs.data();
    const int64_t size = height * width;
    for (int64_t plane = 0; plane < count * channels; ++plane) {
        padded.copy(images + plane * size);
        const float* matrix = matrices + plane / channels * 6;
        const float xx = matrix[0], xy = matrix[1], yx = matrix[3], yy = matrix[4];
        const float x0 = matrix[2] * width / 2 + middle(width),
                    y0 = matrix[5] * height / 2 + middle(height);
        for (int row = 0; row < height; ++row) {
            const float y = row - middle(height), row_x = xy * (y * ratio) + x0,
                        row_y = yy * y + y0;
            // Two loops: the first in vectors, the second, which looks up, is not.
            for (int column = 0; column < columns; ++column) {
                const float x = column - middle(width);
                const float from_x = xx * x + row_x, from_y = yx * (x / ratio) + row_y;
                const int left = at_or_before(from_x, width), top = at_or_before(from_y, height);
                right[column] = from_x - left;  // NaN stays NaN
                down[column] = from_y - top;
                place[column] = top * stride + left;
            }
            float* __restrict to = out + plane * size + row * width;
            for (int column = 0; column < width; ++column) {
                const float* at = origin + place[column];
                const float* under = at + stride;
                const float above = at[0] * (1 - right[column]) + at[1] * right[column];
                const float below = under[0] * (1 - right[column]) + under[1] * right[column];
                to[column] = above * (1 - down[column]) + below * down[column];
            }
        }
    }
}

// matrices: float32 (N, 2, 2), from (x, y) in pixels from the centre, a row vector, to the place
// that a pixel comes from, on axes from -1 to 1. Computed as torch does, in the same order.
void turn(const float* images, const float* matrices, float* out, int64_t count, int channels,
          int height, int width) {
    Padded padded(height, width, BORDER, BORDER);
    const float* origin = padded.origin();
    const int stride = padded.stride;
    const int columns = in_vectors(width);
    std::vector<float> across(2 * size_t(columns));
    float* __restrict xx = across.data();
    float* __restrict xy = xx + columns;
    std::vector<int> places(columns);
    int* __restrict place = places.data();
    const int64_t size = height * width;
    for (int64_t plane = 0; plane < count * channels; ++plane) {
        padded.copy(images + plane * size);
        const float* matrix = matrices + plane / channels * 4;
        // Products that are kept are rounded, as torch's are; within a sum they need not be.
        for (int column = 0; column < width; ++column) {
            xx[column] = (column - middle(width)) * matrix[0];
            xy[column] = (column - middle(width)) * matrix[1];
        }
        for (int row = 0; row < height; ++row) {
            const float y = row - middle(height), yx = y * matrix[2], yy = y * matrix[3];
            for (int column = 0; column < columns; ++column) {
                const float x = (xx[column] + yx + 1) * (width / 2.0f) - 0.5f;
                const float y = (xy[column] + yy + 1) * (height / 2.0f) - 0.5f;
                place[column] = nearest(y, height) * stride + nearest(x, width);
            }
            float* to = out + plane * size + row * width;
            for (int column = 0; column < width; ++column) to[column] = origin[place[column]];
        }
    }
}

void deslant(const float* images, float* out, int64_t count, int channels, int height, int width) {
    // A row moves sideways as a whole, until it is gone with both neighbours of each place.
    const int farthest = width + 1;
    Padded padded(height, width, 0, farthest + 1);
    const int64_t size = height * width;
    for (int64_t image = 0; image < count; ++image) {
        const float lean = slant(images + image * channels * size, channels, height, width);
        for (int64_t plane = image * channels; plane < (image + 1) * channels; ++plane) {
            padded.copy(images + plane * size);
            for (int row = 0; row < height; ++row) {
                const float shift = lean * (row - middle(height));
                const float whole = std::floor(within(shift, -farthest, farthest));
                const float part = shift - whole;  // NaN stays NaN
                const float* from = padded.origin() + row * padded.stride + int(whole);
                float* __restrict to = out + plane * size + row * width;
                for (int column = 0; column < width; ++column)
                    to[column] = from[column] * (1 - part) + from[column + 1] * part;
            }
        }
    }
}

// Calls prepare(first, count) for parts of a batch of `count` images, on all threads.
void in_parts(int64_t count, const std::function<void(int64_t, int64_t)>& prepare) {
    constexpr int64_t SIZE = 16;
    parallel(int((count + SIZE - 1) / SIZE), [&](int part) {
        const int64_t first = part * SIZE;
        prepare(first, std::min(SIZE, count - first));
    });
}

}  // namespace

extern "C" {

void warp_images(const float* images, const float* matrices, float* out, int64_t count,
                 int channels, int height, int width) {
    const int64_t size = int64_t(channels) * height * width;
    in_parts(count, [=](int64_t first, int64_t part) {
        warp(images + first * size, matrices + first * 6, out + first * size, part, channels,
             height, width);
    });
}

void turn_images(const float* images, const float* matrices, float* out, int64_t count,
                 int channels, int height, int width) {
    const int64_t size = int64_t(channels) * height * width;
    in_parts(count, [=](int64_t first, int64_t part) {
        turn(images + first * size, matrices + first * 4, out + first * size, part, channels,
             height, width);
    });
}

void deslant_images(const float* images, float* out, int64_t count, int channels, int height,
                    int width) {
    const int64_t size = int64_t(channels) * height * width;
    in_parts(count, [=](int64_t first, int64_t part) {
        deslant(images + first * size, out + first * size, part, channels, height, width);
    });
}

void rescale_pixels(const float* pixels, float* out, int64_t count, float factor, float offset) {
    for (int64_t i = 0; i < count; ++i) out[i] = pixels[i] * factor + offset;
}

}  // extern "C"
