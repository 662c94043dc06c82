"""Check an image folder: decode every file once, and say what is broken, odd or twice there."""
