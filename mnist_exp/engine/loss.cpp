// The loss of a batch with its gradient, in double precision: it takes no part of a step's time.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

// The first of those that none exceeds; one that is no number exceeds all, as in torch.
int greatest(const float* numbers, int count) {
    return int(std::max_element(numbers, numbers + count,
                                [](float a, float b) { return a < b || (a == a && b != b); }) -
               numbers);
}

}  // namespace

extern "C" {

// Whether all labels are from 0 to classes - 1.
int are_classes(const int64_t* labels, int images, int classes) {
    return std::all_of(labels, labels + images,
                       [=](int64_t label) { return label >= 0 && label < classes; });
}

// The mean cross-entropy of output, float32 (images, classes), with the images' classes, and its
// gradient, which is as large. Returns how many images are classified rightly.
int64_t cross_entropy(const float* output, const int64_t* labels, int images, int classes,
                      float* gradient, float* loss) {
    std::vector<double> powers(classes);
    int64_t right = 0;
    double total = 0;
    for (int image = 0; image < images; image++, output += classes, gradient += classes) {
        const int64_t label = labels[image];
        const int guess = greatest(output, classes);
        const double most = output[guess];
        double sum = 0;
        for (int c = 0; c < classes; c++) sum += powers[c] = std::exp(output[c] - most);
        for (int c = 0; c < classes; c++)
            gradient[c] = float((powers[c] / sum - (c == label)) / images);
        total += std::log(sum) + most - output[label];
        right += guess == label;
    }
    *loss = float(total / images);
    return right;
}

}  // extern "C"
