"""From the archives of ImageNet-1k to a folder that trains: `splits` does it, `task` says how."""
