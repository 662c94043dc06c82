"""Does training windows of a run again give what the run recorded?"""

from ixt.runs.verify.replay.replay import replay_run

__all__ = ["replay_run"]
