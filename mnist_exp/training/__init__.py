"""A recipe goes in, and the results of its epochs come out.

Nothing here reads or writes anything, or knows of the tracking store. `loop` trains, `classifier`
is what is evaluated, `faster` makes the same training quicker, and `receptive_field` says how much
of an image a network sees.
"""
