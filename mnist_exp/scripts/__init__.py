"""For scripts and notebooks of one's own: a training loop of theirs is recorded as a run.

`track` is what they call, and `given` checks what they give; `origin` finds out where their code
is. They have no file in the notebook and no recipe, so none of it is settled by a Plan.
"""
