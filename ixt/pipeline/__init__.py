"""From a table of images to batches on the device: plan, decode, augment, mix."""
