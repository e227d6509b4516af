"""A verdict is what all counting runs of an iteration have in common.

- `scores`: what the epochs of each run come to, on its own split, and why a run does not count
- `verdict`: whether the target is met: by a run (RunVerdict), and by an iteration (Verdict)
- `effect`: how much an iteration differs from another, paired by seed
- `comparison`: the iterations of a store with all of these, each worked out once
- `side_by_side`: any runs, in groups that differ in their seeds alone
- `listing`: the newest runs of a store, and whether each counts
- `ideas`: what scripts of one's own tracked, which is no iteration
- `references`: figures of others, beside which the measured ones stand
- `mistakes`: which digits a trained network gets wrong

Only these and `mistakes` read the store; `scores`, `verdict` and `effect` take tables, and
neither read nor write.
"""
