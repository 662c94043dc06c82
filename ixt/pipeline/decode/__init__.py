"""Turn planned crops of image files into batches of pixels: with DALI, torch or Pillow."""
