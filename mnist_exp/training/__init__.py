"""A recipe goes in, and the results of its epochs come out.

Nothing here reads or writes anything, or knows of the tracking store. `loop` trains, `classifier`
is what is evaluated, and `faster` makes the same training quicker.

`receptive_field` says how much of an image a network sees, as a table. `following` finds it out: it
hands each operation of the network, a `call`, to the `map_rules`, which know the arithmetic of
`axes`, or to the `number_rules`, which carry a `sight` of each number; `causality` checks it.
"""
