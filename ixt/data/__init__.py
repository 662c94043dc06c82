"""The data path: index, plan, decode, augment, mix, loader. It imports nothing of the trainer."""
