"""A recipe goes in, and the results of its epochs come out.

Nothing here reads or writes anything, or knows of the tracking store. `loop` trains, `classifier`
is what is evaluated, and `faster` makes the same training quicker. `receptive_field` says how much
of an image a network sees: `following` finds it out, with the arithmetic of `axes`.
"""
