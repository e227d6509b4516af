// Threads of the engine, for a checker of their accesses to memory: what some write before a
// barrier, others read behind it, as between the stages of a plan.
#include <cstdio>

#include "pool.h"

int main() {
    for (int round = 0; round < 600; round++) {
        const int wanted = 1 + round % 4, tasks = 24;
        std::vector<int> first(tasks), second(tasks);
        std::atomic<int> next[2] = {};
        Barrier barrier;
        Threads::of_process().count = wanted;
        Threads::of_process().run([&](int, int threads) {
            for (int i; (i = next[0].fetch_add(1)) < tasks;) first[i] = i + round;
            if (threads > 1) barrier.wait(threads);
            for (int i; (i = next[1].fetch_add(1)) < tasks;) second[i] = first[tasks - 1 - i];
        });
        for (int i = 0; i < tasks; i++)
            if (second[i] != tasks - 1 - i + round) return std::puts("another number"), 1;
        std::vector<int> done(50);
        parallel(50, [&](int task) { done[task] += task + 1; });
        for (int task = 0; task < 50; task++)
            if (done[task] != task + 1) return std::puts("a task was not done once"), 1;
    }
    std::puts("done");
}
