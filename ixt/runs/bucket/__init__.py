"""A run that lives in a bucket: `--run-dir s3://bucket/run`.

Training writes into a folder on this machine, as ever. A thread of the first process keeps the
bucket equal to it (`upload.py`), a machine with an empty disk starts from the bucket
(`restore.py`), and one run at a time owns the address (`owner.py`). What lies in the bucket has the
names of a run's folder, so any tool that copies it gives one.
"""
