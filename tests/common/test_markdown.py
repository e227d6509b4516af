"""Texts that the tracking UI shows."""

import dataclasses

from mnist_exp.common import markdown
from mnist_exp.evidence.verdict import Condition, RunVerdict
from mnist_exp.notebook import loading
from mnist_exp.showing import description


def test_text_in_markdown_is_shown_as_it_is() -> None:
    escaped = markdown.escape("a__b__ *c* ~~d~~ $e$ `f` [g](h)\n# <i> | & \\")
    assert escaped == r"a\_\_b\_\_ \*c\* \~\~d\~\~ \$e\$ \`f\` \[g\](h) # &lt;i> \| &amp; \\"


def test_a_description_shows_text_as_text() -> None:
    iteration = loading.load_iteration(5)
    sections = iteration.sections | {"Change": "<script>alert(1)</script> & more"}
    iteration = dataclasses.replace(iteration, sections=sections)
    text = description.run_description(iteration, "Target met.", "| table |")
    assert "**Change:** &lt;script>alert(1)&lt;/script> &amp; more" in text
    title = "## Model 5: rotate the training images"
    assert text.startswith(f"{title}\n\nTarget met.\n\n**Target:** narrow")
    assert text.endswith("\n\n| table |")


def test_a_verdict_table() -> None:
    verdict = RunVerdict((Condition("at most 15 epochs", "16", False), Condition("few", "7", True)))
    assert description.verdict_table(verdict).splitlines() == [
        "| condition | measured | met |",
        "|---|---|---|",
        "| at most 15 epochs | 16 | **no** |",
        "| few | 7 | yes |",
    ]
