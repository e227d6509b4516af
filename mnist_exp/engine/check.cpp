// What library.py asks of a library that it has just compiled: numbers that it knows, by a loop
// that the compiler gives the widest instructions that it believes the processor to have.

extern "C" void double_and_add_one(float* numbers, int count) {
    for (int i = 0; i < count; ++i) numbers[i] = 2 * numbers[i] + 1;
}
