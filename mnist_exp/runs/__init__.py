"""A run is a file of the notebook and a seed, trained and recorded.

`plan` settles what is trained, `run` carries it out, and `record` writes what comes of it to the
store. A run that ended early goes on by `resume`, from its `checkpoint`; `reproduce` trains a
recorded one again. `sweep` asks for many, over a `grid` too: `cluster` has the workers, and
`worker` and `job` are the two ends of the pipe between a worker and each of its trainings. `tune`
looks for better values in a `space`. What is set otherwise than in the file are `overrides`, of
`fields` of the recipe.
"""
