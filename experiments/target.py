"""The bar that every iteration is judged by."""

from mnist_exp.recipe import Target

TARGET = Target(
    test_accuracy=0.994,  # in every one of
    last_epochs=5,
    max_epochs=15,
    parameters_below=8_000,
)
