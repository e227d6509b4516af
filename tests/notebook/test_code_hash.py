"""What makes two recipes the same code."""

from mnist_exp.notebook import code_hash, entries

VALID = entries.path(5).read_text()


def test_the_code_hash_ignores_docstrings_comments_and_layout() -> None:
    analysed = VALID.replace("Analysis: ", "Analysis: rotation helps. ")
    commented = VALID.replace("RECIPE =", "# a comment\n\nRECIPE =")
    changed = VALID.replace("degrees=7", "degrees=8")
    assert VALID not in (analysed, commented, changed)
    expected = code_hash.code_sha256(VALID)
    assert code_hash.code_sha256(analysed) == expected
    assert code_hash.code_sha256(commented) == expected
    assert code_hash.code_sha256(changed) != expected


def test_a_string_that_is_no_docstring_counts() -> None:
    assert code_hash.code_sha256("x = 'a'") != code_hash.code_sha256("x = 'b'")
    assert code_hash.code_sha256("def f():\n 'a'") == code_hash.code_sha256("def f():\n 'b'")
