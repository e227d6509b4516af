"""Training at the speed that the processor has: a network as a program of compiled kernels.

It knows torch and numpy, and nothing of recipes, runs or the store. The README beside this file
explains how images lie in memory.
"""
