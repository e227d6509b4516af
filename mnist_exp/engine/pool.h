// Threads that wait for work: no OpenMP, which not every compiler brings.
#pragma once

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

// A few microseconds of waiting cost less than going to sleep; more would keep a core from others.
constexpr int SPINS = 2000;

static inline void pause_briefly(int& spins) {
    if (++spins < SPINS) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    } else {
        std::this_thread::yield();
    }
}

// All threads of a team wait here for each other.
class Barrier {
    std::atomic<int> arrived{0}, round{0};

   public:
    void wait(int threads) {
        const int mine = round.load();
        if (arrived.fetch_add(1) + 1 == threads) {
            arrived.store(0);
            round.store(mine + 1);
            return;
        }
        for (int spins = 0; round.load() == mine;) pause_briefly(spins);
    }
};

// Runs work(thread) for each thread of 0..threads-1, the caller being thread 0.
class Team {
    std::vector<std::thread> helpers;
    std::mutex mutex;
    std::condition_variable wake;
    std::atomic<int> order{0}, busy{0};
    std::atomic<bool> closing{false};
    int wanted = 0;  // threads of the present order
    const std::function<void(int)>* work = nullptr;

    void help(int thread) {
        for (int seen = 0;;) {
            for (int spins = 0; spins < 20 * SPINS && order.load() == seen; spins++)
#if defined(__x86_64__)
                __builtin_ia32_pause();
#else
                ;
#endif
            if (order.load() == seen) {
                std::unique_lock<std::mutex> lock(mutex);
                wake.wait(lock, [&] { return order.load() != seen; });
            }
            seen = order.load();
            if (closing.load()) return;
            if (thread < wanted) (*work)(thread);
            busy.fetch_sub(1);
        }
    }

   public:
    ~Team() {
        closing.store(true);
        announce();
        for (auto& helper : helpers) helper.join();
    }
    void announce() {
        { std::lock_guard<std::mutex> lock(mutex); order.fetch_add(1); }
        wake.notify_all();
    }
    void run(int threads, const std::function<void(int)>& all_work) {
        if (threads <= 1) return all_work(0);
        for (int i = int(helpers.size()) + 1; i < threads; i++)
            helpers.emplace_back([this, i] { help(i); });
        wanted = threads;
        work = &all_work;
        busy.store(int(helpers.size()));
        announce();
        all_work(0);
        for (int spins = 0; busy.load() > 0;) pause_briefly(spins);
    }
};

// The one team of this process, and how many threads its work gets.
struct Threads {
    int count = 1;
    // After a fork the threads are gone: the child makes its own. One caller at a time.
    std::mutex one_at_a_time;
    pid_t owner = 0;
    Team* team = nullptr;

    void run(const std::function<void(int thread, int threads)>& work) {
        std::lock_guard<std::mutex> lock(one_at_a_time);
        if (owner != getpid()) team = new Team, owner = getpid();  // never ended: threads may wait
        const int threads = count;
        team->run(threads, [&](int thread) { work(thread, threads); });
    }
    static Threads& of_process() {
        static Threads& threads = *new Threads;
        return threads;
    }
};

// Runs task(i) for each i of 0..tasks-1, on whichever thread is free.
static inline void parallel(int tasks, const std::function<void(int)>& task) {
    std::atomic<int> next{0};
    Threads::of_process().run([&](int, int) {
        for (int i; (i = next.fetch_add(1)) < tasks;) task(i);
    });
}
