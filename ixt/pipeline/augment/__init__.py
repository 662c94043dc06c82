"""Augmentation on batches of images, on their device: what the plan drew, carried out."""
