"""Evaluation: exact results of models on a split, the same on any number of processes.

    from ixt.evaluate.accuracy import accuracy
    from ixt.evaluate.inference import take_records

`inference` runs models over the images, `records` holds what they made of each, `accuracy` sums
that up; `evaluation` is `ixt eval`.
"""
