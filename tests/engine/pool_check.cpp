// A plan in many threads, for a checker of their accesses to memory: two stages of tiles, what they
// have in common between them, and tasks beside plans.
#include "plan.cpp"

#include <cstdio>

int main() {
    const int images = 40, numbers = 3 * 5, count = images * numbers;
    Plan* plan = plan_new();
    const int x = plan_buffer(plan, OF_TILE, numbers * LANES), y = plan_buffer(plan, OF_TILE, numbers * LANES);
    const int partial = plan_buffer(plan, OF_TILE, 6), norm = plan_buffer(plan, OF_ALL, 12);
    plan_program(plan);
    plan_stage(plan, 1);
    add_load(plan, 0, x, 3, 5, 0);
    add_moments(plan, x, partial, 3, 5);
    plan_stage(plan, 0);
    add_norm(plan, partial, norm, -1, -1, -1, -1, 0, 3, 5, 1e-5);
    plan_stage(plan, 1);
    add_map(plan, x, y, norm, SILU, -1, 3, 5);
    add_store(plan, y, 1, 3, 5);
    std::vector<float> in(count), expected(count), out(count);
    for (int i = 0; i < count; i++) in[i] = float(i * 7919 % 101);
    for (int round = 0; round < 400; round++) {
        const int threads = 1 + round % 4;
        Memory* memory = memory_new(plan, pieces_of(images, LANES), threads);
        float* tensors[] = {in.data(), round ? out.data() : expected.data()};
        const double numbers_of_run[] = {0};
        const int64_t integers[] = {0, 0};
        set_threads(threads);
        plan_run(plan, memory, 0, images, tensors, numbers_of_run, integers, 0);
        memory_free(memory);
        if (round && out != expected) return std::puts("other numbers"), 1;
        std::vector<int> done(50);
        parallel(50, [&](int task) { done[task] += task; });
        for (int task = 0; task < 50; task++)
            if (done[task] != task) return std::puts("a task was not done once"), 1;
    }
    plan_free(plan);
    std::puts("done");
    return 0;
}
