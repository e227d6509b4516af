"""A comparison is told: on a page, and in the record that travels with git.

`contents` gathers what is said, `pictures` what is drawn; `page` writes a report, `publish` the
published results, and `enter` takes published runs into a store.
"""
