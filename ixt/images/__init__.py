"""Which images there are: folders, tars and buckets as one table of byte ranges and labels."""
