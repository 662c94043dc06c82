"""Objects in the buckets of S3, Google Cloud, Azure and Hugging Face, by their URLs.

`objects` has all that other rooms call: list, read, write, create, delete. Each call asks again
where that may help, and raises one StorageError of one line where it does not.
"""
