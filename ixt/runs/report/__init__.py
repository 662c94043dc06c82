"""`report.html` of a run: written at every evaluation, and again by `ixt report`.

Training keeps what the page needs in the run's folder (`evaluation`, `first_batch`); `page` makes
it of that and of the rows alone, so that it can be made again at any time, also after a crash.
"""
