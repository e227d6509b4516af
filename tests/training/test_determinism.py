"""Deterministic kernels are asked for by name, and what has none is named."""

import pytest
import torch

from mnist_exp.training import determinism

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CELLS, ONE = torch.tensor([0, 0]), torch.tensor([1.0, 2.0])


def put() -> None:
    torch.zeros(3).put_(CELLS, ONE)  # which of both stays?


def test_what_has_no_deterministic_kernel_is_named_and_nothing_stays_set() -> None:
    assert determinism.missing(CUDA, put) == "put_"
    assert determinism.missing(CUDA, lambda: torch.zeros(3) + 1) == ""
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
    with pytest.raises(RuntimeError, match="must match"):
        determinism.missing(CUDA, lambda: torch.zeros(3) + torch.zeros(2))


def test_what_cublas_says_is_understood_where_a_user_has_set_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")

    def multiply() -> None:  # the words of at::Context::alertCuBLASConfigNotDeterministic
        raise RuntimeError(
            "Deterministic behavior was enabled with either `torch.use_deterministic_algorithms("
            "True)` or `at::Context::setDeterministicAlgorithms(true)`, but this operation is not "
            "deterministic because it uses CuBLAS and you have CUDA >= 10.2."
        )

    assert determinism.missing(CUDA, multiply) == "cuBLAS with CUBLAS_WORKSPACE_CONFIG=:0:0"


def test_nothing_is_asked_of_a_processor() -> None:
    assert determinism.missing(CPU, put) == ""


def test_it_is_asked_for_on_a_graphics_card_alone(recwarn: pytest.WarningsRecorder) -> None:
    with determinism.deterministic(CPU):
        assert not torch.are_deterministic_algorithms_enabled()
    with determinism.deterministic(CUDA):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.allow_tf32
        put()  # is done all the same, without a word
    assert not torch.are_deterministic_algorithms_enabled()
    assert not recwarn.list


def test_who_asks_for_more_is_given_more() -> None:
    def both() -> None:
        with determinism.deterministic(CUDA):
            put()

    assert determinism.missing(CUDA, both) == "put_"
