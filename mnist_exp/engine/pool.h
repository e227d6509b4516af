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

// A number that threads wait for to change: at first awake, since it takes them longer to wake up
// than most waits last, and then asleep, since another process may want the core.
class Gate {
    static constexpr int SPINS = 5000;  // some 100 microseconds
    std::atomic<int> number{0};
    std::mutex mutex;
    std::condition_variable changed;

 public:
    int get() const { return number.load(); }
    void set(int value) {
        {
            std::lock_guard<std::mutex> lock(mutex);
            number.store(value);
        }
        changed.notify_all();
    }
    void wait_while(int seen) {
        for (int spins = 0; spins < SPINS; spins++) {
            if (number.load() != seen) return;
#if defined(__x86_64__)
            __builtin_ia32_pause();
#elif defined(__aarch64__)
            asm volatile("yield");
#endif
        }
        std::unique_lock<std::mutex> lock(mutex);
        changed.wait(lock, [&] { return number.load() != seen; });
    }
};

// All threads of a team wait here for each other.
class Barrier {
    std::atomic<int> arrived{0};
    Gate round;

 public:
    void wait(int threads) {
        const int mine = round.get();
        if (arrived.fetch_add(1) + 1 < threads) return round.wait_while(mine);
        arrived.store(0);
        round.set(mine + 1);
    }
};

// Runs work(thread) for each thread of 0..threads-1, the caller being thread 0.
class Team {
    std::vector<std::thread> helpers;
    Gate order;    // counts what was asked for
    Barrier done;  // of all threads, also those that have nothing to do
    int wanted = 0;
    const std::function<void(int)>* work = nullptr;

    void help(int thread, int seen) {
        for (;; seen++) {
            order.wait_while(seen);
            if (thread < wanted) (*work)(thread);
            done.wait(int(helpers.size()) + 1);
        }
    }

 public:
    void run(int threads, const std::function<void(int)>& all_work) {
        if (threads <= 1) return all_work(0);
        wanted = threads;
        work = &all_work;
        while (int(helpers.size()) + 1 < threads) {
            const int thread = int(helpers.size()) + 1, seen = order.get();
            helpers.emplace_back([this, thread, seen] { help(thread, seen); });
        }
        order.set(order.get() + 1);
        all_work(0);
        done.wait(int(helpers.size()) + 1);
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
